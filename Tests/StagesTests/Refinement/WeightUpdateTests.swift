import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Testing

/// Runs that fit weights anew.
@Suite(.serialized) struct WeightUpdateTests {
  static let chains = [
    ["warmStart: {sparsity: 0.5}", "swap", "reconstruct"], ["warmStart: {keep: 2, of: 4}", "reconstruct"],
    ["sparseGPT: {sparsity: 0.6}"], ["sparseGPT: {keep: 1, of: 4}"],
    ["sparseGPT: {sparsity: 0.5, budget: matrix}"], ["admm: {sparsity: 0.5}"],
    ["admm: {keep: 2, of: 4}"],
    ["warmStart: {sparsity: 0.5}", "swap: {budget: matrix}", "reconstruct"],
  ]

  @Test(arguments: chains, [(DType.f32, 1), (.bf16, 2), (.f16, 3)])
  func countsAreExactAndNothingElseChanges(chain: [String], storage: (dtype: DType, shards: Int)) throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.dtype = storage.dtype
    checkpoint.shards = storage.shards
    let bench = try Workbench(checkpoint)
    let output = try bench.run(bench.recipe(chain.joined(separator: "\n  - ")))
    let (before, after) = (try Checkpoint(folder: bench.model), try Checkpoint(folder: output))
    let record = try OutputRecord(folder: output)
    #expect(record.matrices.count == 14 && record.matrices.allSatisfy(\.hasNewWeights))
    #expect(try Verification(folder: output, on: device).findings.isEmpty)
    var changed = 0
    for (name, tensor) in before.tensors {
      let old = try tensor.dense()
      let new = try #require(after.tensors[name]).dense()
      guard let matrix = record.matrices.first(where: { $0.name == name }) else {
        #expect(try old.digest() == new.digest(), "\(name) changed")
        continue
      }
      let w = try LinearWeight(old).matrix(0..<matrix.rows)
      let z = try LinearWeight(new).matrix(0..<matrix.rows)
      var mask = Mask(rows: matrix.rows, columns: matrix.columns, pattern: matrix.pattern)
      for row in 0..<matrix.rows {
        for column in 0..<matrix.columns {
          mask[row, column] = z[row, column] != 0
          changed += z[row, column] != 0 && z[row, column] != w[row, column] ? 1 : 0
        }
      }
      // A fitted weight that is zero by chance is not to be expected here.
      #expect(mask.firstRowOffPattern() == nil, "\(name)")
    }
    #expect(changed > 100)
  }

  /// The loss of the report is that of the bytes that are emitted, by its definition, in f64.
  @Test(arguments: chains)
  func theReportedLossIsThatOfTheOutput(chain: [String]) throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.dtype = .bf16
    let bench = try Workbench(checkpoint)
    let output = try bench.run(
      bench.recipe(chain.joined(separator: "\n  - "), capture: "{propagate: dense}"))
    let report = try RunReport(work: bench.folder.path + "/work")
    let (dense, pruned) = (try Model(folder: bench.model), try Model(folder: output))
    let store = try ArtifactStore(existing: bench.folder.path + "/work")
    for manifest in try store.manifests() where manifest.components["stage"]?.string == "factor" {
      let place = manifest.components["place"]?.string?.split(separator: " ").compactMap { Int($0) } ?? []
      let file = try SafetensorsFile(path: store.path(manifest.key, "factor.safetensors"))
      let gram = try file.tensor("gram").floats().array()
      for matrix in dense.outline.blocks[place[0]].sites[place[1]].matrices {
        let shape = [matrix.rows, matrix.columns]
        let w = try LinearWeight(dense.checkpoint.tensor(matrix.tensor, shape: shape)).matrix(0..<matrix.rows)
        let z = try LinearWeight(pruned.checkpoint.tensor(matrix.tensor, shape: shape)).matrix(
          0..<matrix.rows)
        var loss = 0.0
        for row in 0..<matrix.rows {
          let d = (0..<matrix.columns).map { Double(w[row, $0]) - Double(z[row, $0]) }
          for i in d.indices { for j in d.indices { loss += d[i] * d[j] * Double(gram[i * d.count + j]) } }
        }
        let steps = try #require(report.matrices.first { $0.name == matrix.module }).steps
        let reported = try #require(steps.last?.report.lossAfter)
        #expect(abs(reported - loss) <= 1e-4 * loss + 1e-6, "\(matrix.module)")
        // Fitting lowers what the mask alone loses.
        if let before = steps.last?.report.lossBefore { #expect(reported < before) }
      }
    }
  }

  /// Masks are chosen for the checkpoint's own weights: a swap after SparseGPT keeps its mask's counts and drops its weights.
  @Test func swapsStartFromAMaskAndDropFittedWeights() throws {
    let bench = try Workbench()
    let output = try bench.run(bench.recipe("sparseGPT: {sparsity: 0.5}", "swap"))
    let record = try OutputRecord(folder: output)
    #expect(record.matrices.allSatisfy { !$0.hasNewWeights })
    #expect(try Verification(folder: output, on: device).findings.isEmpty)
  }
}
