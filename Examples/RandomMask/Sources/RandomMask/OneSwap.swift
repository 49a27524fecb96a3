import EspalierStageKit

/// Makes one swap in each row: restores the weight that gains most, and prunes the one that then costs least.
struct OneSwap: RefineStage, StageDefinition {
  static let descriptor = StageDescriptor(
    name: "oneSwap", summary: "Makes one swap in each row of a mask.", revision: 1
  ) { .matrix(OneSwap(&$0)) }

  let needsGram = true

  init(_ parameters: inout Parameters) {}

  func refine(_ mask: inout Mask, of weight: LinearWeight, inputs: SiteFactor, _ unit: UnitContext) throws
    -> JSONObject
  {
    let gram = try inputs.requireGram()
    let diagonal = inputs.diagonal
    let span = mask.pattern.span(ofColumns: weight.columns)
    var swaps = 0
    for row in 0..<weight.rows {
      let w = weight.matrix(row..<row + 1)
      // d = (1 - m) . w is what the mask takes away; the loss is d G d, and c = G d.
      var pruned = Matrix(rows: 1, columns: weight.columns)
      for column in 0..<weight.columns where !mask[row, column] { pruned[0, column] = w[0, column] }
      var c = Matrix(rows: 1, columns: weight.columns)
      gram.multiply(pruned, rows: 1, into: &c, on: unit.device)

      /// By how much the loss changes if d changes by `step` in one column.
      func change(_ column: Int, by step: Float) -> Double {
        2 * Double(step * c[0, column]) + Double(step * step) * diagonal[column]
      }
      let restored = (0..<weight.columns).filter { !mask[row, $0] }
        .min { change($0, by: -w[0, $0]) < change($1, by: -w[0, $1]) }
      guard let p = restored else { continue }
      let g = gram.rows(p..<p + 1)
      func total(_ u: Int) -> Double {
        change(p, by: -w[0, p]) + change(u, by: w[0, u]) - 2 * Double(w[0, p] * w[0, u] * g[0, u])
      }
      // A swap stays inside of its group, so that the pattern is kept.
      let group = p / span * span..<(p / span + 1) * span
      let best = group.filter { mask[row, $0] }.min { total($0) < total($1) }
      guard let u = best, total(u) < 0 else { continue }
      mask[row, p] = true
      mask[row, u] = false
      swaps += 1
      try unit.progress(row + 1, of: weight.rows)
    }
    return JSONObject([("oneSwaps", .integer(swaps))])
  }

  /// One row of the weights, of d and of c at a time, and one of G.
  func refiningByteCount(_ sizes: UnitSizes) -> Int { 16 * (sizes.matrix?.columns ?? 0) }

  func work(_ sizes: UnitSizes) -> Work { Work(operations: sizes.matrix?.gramOperations ?? 0) }
}
