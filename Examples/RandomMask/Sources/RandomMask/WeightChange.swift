import EspalierStageKit

/// Measures how far the weights of the pruned model are from those before, as a share: |W - W'| / |W|.
struct WeightChange: EvaluationStage, StageDefinition {
  static let descriptor = StageDescriptor(
    name: "weightChange", summary: "Measures how far the pruned weights are from the dense ones.", revision: 1
  ) { .evaluation(WeightChange(&$0)) }

  init(_ parameters: inout Parameters) {}

  func run(_ unit: UnitContext) throws -> EvaluationReport {
    let output = try Checkpoint(folder: unit.output().path)
    var (difference, size) = (0.0, 0.0)
    for (index, matrix) in unit.model.matrices.enumerated() {
      let dense = try LinearWeight(unit.checkpoint.stored(matrix), order: matrix.order, pruned: nil)
      let pruned = try LinearWeight(output.stored(matrix), order: matrix.order, pruned: nil)
      for row in 0..<matrix.rows {
        let w = dense.matrix(row..<row + 1)
        let v = pruned.matrix(row..<row + 1)
        for column in 0..<matrix.columns {
          let gap = Double(w[0, column] - v[0, column])
          difference += gap * gap
          size += Double(w[0, column]) * Double(w[0, column])
        }
      }
      try unit.progress(index + 1, of: unit.model.matrices.count)
    }
    var scores = ModelScores()
    scores.tasks = [
      TaskReport(
        task: "weightChange", rows: unit.model.matrices.count, shots: 0,
        metrics: JSONObject([("share", .number((difference / size).squareRoot()))]))
    ]
    return EvaluationReport(pruned: scores, dense: nil, comparisons: [])
  }
}
