import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Testing

/// Recipes whose factors are of low rank.
@Suite(.serialized) struct LowRankStageTests {
  static let chains = [
    ["warmStart: {sparsity: 0.5}", "swap"], ["warmStart: {keep: 2, of: 4}", "swap: {moves: group}"],
    ["warmStart: {sparsity: 0.5}", "swap: {budget: matrix}"],
    ["warmStart: {sparsity: 0.5}", "swap: {objective: refit}"],
    ["warmStart: {sparsity: 0.5}", "swap: {holdOut: 0.2}"],
    ["warmStart: {sparsity: 0.5}", "frankWolfe: {alpha: 0, iterations: 50}"],
    ["warmStart: {sparsity: 0.5}", "frankWolfe: {step: pairwise, iterations: 3, budget: matrix}"],
    ["warmStart: {sparsity: 0.5}", "dsnot", "reconstruct"], ["sparseGPT: {sparsity: 0.5}"],
    ["admm: {keep: 2, of: 4}"],
    ["allocate: {method: error, sparsity: 0.5}", "warmStart: {sparsity: allocated}"],
  ]

  /// What a run reports of each matrix, and the same loss computed here in f64 from the written weights and the site's factor.
  private struct Loss {
    let reported: Double
    let computed: Double
    /// The loss of pruning the whole matrix.
    let largest: Double
  }

  private func losses(_ bench: Workbench, _ chain: [String], _ factor: String, _ name: String) throws
    -> [Loss]
  {
    let output = try bench.run(
      bench.recipe(
        chain.joined(separator: "\n  - "), capture: "{propagate: dense}", factor: factor, samples: 10),
      output: name, work: "work-\(name)")
    #expect(try Verification(folder: output, on: device).findings.isEmpty)
    let reported = try RunReport(work: bench.folder.path + "/work-\(name)").matrices
    let (dense, pruned) = (try ReferenceLlama(folder: bench.model), try ReferenceLlama(folder: output))
    let outline = try Model(folder: bench.model).outline
    var losses: [Loss] = []
    for (block, sites) in outline.blocks.map(\.sites).enumerated() {
      for (index, site) in sites.enumerated() {
        let gram = try gram("work-\(name)", "block \(block) site \(index)", bench)
        for matrix in site.matrices {
          let (w, z) = (
            try #require(dense.weights[matrix.tensor]), try #require(pruned.weights[matrix.tensor])
          )
          let step = try #require(reported.first { $0.name == matrix.module }?.steps.last)
          losses.append(
            Loss(
              reported: try #require(step.report.lossAfter),
              computed: zip(w, z).reduce(0) { $0 + form(gram, zip($1.0, $1.1).map { $0 - $1 }) },
              largest: w.reduce(0) { $0 + form(gram, $1) }))
        }
      }
    }
    return losses
  }

  /// `x^T G x`.
  private func form(_ gram: [[Double]], _ x: [Double]) -> Double {
    zip(gram, x).reduce(0) { $0 + $1.1 * zip($1.0, x).reduce(0) { $0 + $1.0 * $1.1 } }
  }

  /// The Gram matrix of a site in f64, from what the run wrote: itself, or `F^T F + diag(rest)`.
  private func gram(_ work: String, _ place: String, _ bench: Workbench) throws -> [[Double]] {
    let store = try ArtifactStore(existing: bench.folder.path + "/" + work)
    let manifest = try #require(
      try store.manifests().first {
        $0.components["stage"]?.string == "factor" && $0.components["place"]?.string == place
      })
    let file = try SafetensorsFile(path: store.path(manifest.key, "factor.safetensors"))
    func rows(_ name: String) throws -> [[Double]] {
      let tensor = try file.tensor(name, dtype: .f32)
      let (columns, values) = (
        tensor.shape[tensor.shape.count - 1], try tensor.floats().array().map(Double.init)
      )
      return stride(from: 0, to: values.count, by: columns).map { Array(values[$0..<$0 + columns]) }
    }
    if file.header.tensors.contains(where: { $0.name == "gram" }) { return try rows("gram") }
    let (factor, rest) = (try rows("gram.factor"), try rows("gram.rest")[0])
    return rest.indices.map { i in
      rest.indices.map { j in factor.reduce(i == j ? rest[i] : 0) { $0 + $1[i] * $1[j] } }
    }
  }

  /// Whatever reads a factor: the loss that it reports is the one of the weights that are written, under that factor. A factor of full
  /// rank is the Gram matrix, so that a run with it ends with about the same losses: sums are rounded differently, and of two moves
  /// that are equal but for that, either may be made.
  @Test(arguments: chains)
  func everyStageWorksFromAFactor(chain: [String]) throws {
    let bench = try Workbench()
    let whole = try losses(bench, chain, "{}", "whole")
    let full = try losses(bench, chain, "{kind: svd, rank: 64}", "full")
    let low = try losses(bench, chain, "{kind: svd, rank: 5}", "low")
    for run in [whole, full, low] {
      #expect(run.count == 14)
      for loss in run {
        #expect(abs(loss.reported - loss.computed) <= 1e-4 * loss.computed + 1e-6 * loss.largest)
      }
    }
    for (a, b) in zip(whole, full) {
      #expect(abs(a.largest - b.largest) <= 1e-5 * a.largest)
      #expect(abs(a.reported - b.reported) <= 0.02 * a.reported + 1e-4)
    }
  }
}
