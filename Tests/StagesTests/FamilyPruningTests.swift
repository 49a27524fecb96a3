import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Testing

/// Every layout of a checkpoint is pruned where it should be, and nowhere else.
@Suite(.serialized) struct FamilyPruningTests {
  static let families = [
    "gpt2", "gpt_oss", "granitemoe", "qwen3_moe", "qwen3_moe-fused", "mixtral", "phi3", "bert", "vit",
    "deepseek_v3", "lfm2", "qwen3_next",
  ]

  private func prune(_ family: String, _ stages: String...) throws -> (bench: Workbench, output: String) {
    let bench = try Workbench(family: FamilyCheckpoint(family), samples: 6, length: 24)
    let chain = (["warmStart: {keep: 2, of: 4}", "swap"] + stages).joined(separator: "\n  - ")
    return (bench, try bench.run(bench.recipe(chain)))
  }

  /// The weights of a matrix, outputs x inputs.
  private func weights(_ checkpoint: Checkpoint, _ matrix: ModelOutline.Matrix) throws -> Matrix {
    let weight = try LinearWeight(checkpoint.stored(matrix), order: matrix.order, pruned: nil)
    #expect(weight.rows == matrix.rows && weight.columns == matrix.columns)
    return weight.matrix(0..<matrix.rows)
  }

  /// Checks that a matrix keeps 2 of 4; returns how many kept values are not the source's.
  private func changedWeights(
    _ matrix: ModelOutline.Matrix, _ before: Checkpoint, _ after: Checkpoint
  ) throws -> Int {
    let source = try weights(before, matrix)
    let result = try weights(after, matrix)
    var (changed, wrong) = (0, 0)
    for row in 0..<matrix.rows {
      for start in stride(from: 0, to: matrix.columns, by: 4) {
        let kept = (start..<start + 4).filter { result[row, $0] != 0 }
        wrong += kept.count == 2 ? 0 : 1
        changed += kept.count { result[row, $0] != source[row, $0] }
      }
    }
    #expect(wrong == 0, "\(matrix.module) has \(wrong) groups that do not keep 2 of 4")
    return changed
  }

  /// Checks that the shards are the same outside of the pruned matrices.
  private func expectNothingElseChanged(_ model: Model, _ output: String) throws {
    for shard in model.checkpoint.shards {
      var source = try Folder.read(model.checkpoint.folder + "/" + shard)
      var result = try Folder.read(output + "/" + shard)
      try #require(source.count == result.count)
      for matrix in model.outline.matrices where model.checkpoint.tensors[matrix.tensor]?.shard == shard {
        for index in try model.checkpoint.stored(matrix).dense().entry.range {
          (source[index], result[index]) = (0, 0)
        }
      }
      #expect(source == result, "\(shard) changed outside of the pruned matrices")
    }
    #expect(
      try Folder.read(output + "/config.json") == Folder.read(model.checkpoint.folder + "/config.json"))
  }

  @Test(arguments: families) func everyMatrixKeepsTwoOfFour(family: String) throws {
    let (bench, output) = try prune(family)
    let model = try Model(folder: bench.model)
    let after = try Checkpoint(folder: output)
    for matrix in model.outline.matrices {
      #expect(try changedWeights(matrix, model.checkpoint, after) == 0, "\(matrix.module)")
    }
    try expectNothingElseChanged(model, output)
    let verification = try Verification(folder: output, on: device)
    #expect(verification.findings.isEmpty)
    #expect(verification.checkedMatrices == model.outline.matrices.count)
  }

  @Test(arguments: ["gpt2", "gpt_oss", "qwen3_moe-fused"]) func fittedWeightsKeepTheirPlaces(family: String)
    throws
  {
    let (bench, output) = try prune(family, "reconstruct")
    let model = try Model(folder: bench.model)
    let after = try Checkpoint(folder: output)
    for matrix in model.outline.matrices {
      let changed = try changedWeights(matrix, model.checkpoint, after)
      #expect(changed > matrix.parameters / 4, "\(matrix.module) was hardly fitted: \(changed)")
    }
    try expectNothingElseChanged(model, output)
    #expect(try OutputRecord(folder: output).matrices.allSatisfy(\.hasNewWeights))
    #expect(try Verification(folder: output, on: device).findings.isEmpty)
  }

  /// The groups of a matrix that is stored by columns lie along its inputs, and are counted there.
  @Test(arguments: ["gpt2", "gpt_oss"]) func aWeightTooManyIsFound(family: String) throws {
    let (bench, output) = try prune(family)
    let model = try Model(folder: bench.model)
    let matrix = try #require(model.outline.matrices.last { $0.order == .columns })
    let after = try Checkpoint(folder: output)
    let result = try weights(after, matrix)
    let (row, group) = (matrix.rows - 2, 4)
    let pruned = try #require((group..<group + 4).first { result[row, $0] == 0 })
    let kept = try #require((group..<group + 4).first { result[row, $0] != 0 })
    let range = try after.stored(matrix).dense().entry.range
    func place(_ column: Int) -> Int { range.lowerBound + (column * matrix.rows + row) * 4 }
    let shard = output + "/" + (try #require(after.tensors[matrix.tensor]?.shard))
    var bytes = try Folder.read(shard)
    let before = try SHA256.digest(ofFile: shard).hex
    for index in 0..<4 { bytes[place(pruned) + index] = bytes[place(kept) + index] }
    try Folder.writeAtomically(bytes, to: shard)
    // The digest of the file already tells.
    #expect(try Verification(folder: output, on: device).findings.map(\.subject) == [shard])
    // So do the zeros, if the record were made to fit.
    let path = output + "/" + OutputRecord.fileName
    let record = try #require(try Folder.readJSON(path).opened()).text
    #expect(record.contains(before))
    let fitting = record.replacing(before, with: try SHA256.digest(ofFile: shard).hex)
    try bench.write(JSON(parsing: fitting).sealed().text, to: path)
    let findings = try Verification(folder: output, on: device).findings
    let name = matrix.part == nil ? matrix.tensor : matrix.module
    #expect(findings.map(\.subject) == [name], "\(findings)")
    #expect(findings.first?.problem.contains("row \(row) keeps more than") == true)
  }
}
