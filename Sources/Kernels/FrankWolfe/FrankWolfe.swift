import CKernels
import EspalierCore

/// Refines the mask by Frank-Wolfe on its relaxation, `0 <= x <= 1` with the pattern's counts, and rounds to the largest x (SparseFW,
/// arXiv 2510.13713, algorithm 2, with the gradient taken at the frozen and the moving part together).
///
/// Counts stay exact.
///
/// - Parameters:
///   - weight: `rows x columns`, without a mask of its own.
///   - gram: `columns x columns`.
///   - mask: the start and the result.
///   - progress: called with the parts that are done, of all; what it throws ends the work.
public func frankWolfe(
  _ weight: LinearWeight, gram: GramMatrix, mask: inout Mask, options: FrankWolfeOptions, on device: Device,
  progress: (_ done: Int, _ of: Int) throws -> Void = { _, _ in }
) throws -> FrankWolfeOutcome {
  precondition(
    gram.columns == weight.columns && mask.rows == weight.rows && mask.columns == weight.columns
      && weight.mask == nil)
  var outcome = FrankWolfeOutcome()
  guard weight.rows > 0, weight.columns > 0 else { return outcome }
  let scores =
    options.alpha > 0 ? SaliencyScores(weight, options.saliency, diagonal: gram.diagonal) : nil
  var bounds: [Double] = []
  if case .matrix = mask.pattern {
    var rows = RelaxedRows(weight, gram: gram, rows: 0..<weight.rows, keepsBest: false, on: device)
    rows.start(mask, options, scores)
    bounds = try rows.refineTogether(&mask, options, progress, &outcome)
  } else {
    let blocks = parts(of: weight.rows, size: RowBlock.mostRows)
    for (index, block) in blocks.enumerated() {
      var rows = RelaxedRows(weight, gram: gram, rows: block, keepsBest: options.keepsBest, on: device)
      rows.start(mask, options, scores)
      bounds += try rows.refineEach(
        &mask, options,
        { try progress(index * options.iterations + $0, blocks.count * options.iterations) },
        &outcome)
    }
    try progress(blocks.count * options.iterations, blocks.count * options.iterations)
  }
  outcome.changedShare /= Double(max(1, outcome.rowIterations) * weight.columns)
  if options.alpha == 0 {
    outcome.certificate = Certificate(lowerBounds: bounds)
    // As precise as the bounds.
    outcome.lossAfter = rowLosses(weight, gram: gram, mask: mask, on: device).reduce(0, +)
  }
  return outcome
}

extension FrankWolfeOutcome {
  mutating func add(_ row: RowState, hasHeldOut: Bool) {
    lossBefore += row.lossBefore
    lossAfter += row.lossAfter
    relaxedLoss += row.loss
    gap += row.gap
    rowIterations += row.iterations
    changedShare += Double(row.allChanges)
    if hasHeldOut {
      heldOutBefore = (heldOutBefore ?? 0) + row.heldOutBefore
      heldOutAfter = (heldOutAfter ?? 0) + row.heldOutAfter
    }
  }
}

extension RelaxedRows {
  /// Refines a block of rows, each for itself.
  ///
  /// - Returns: lower bounds of the rows' losses if `alpha` is 0, otherwise none.
  fileprivate mutating func refineEach(
    _ mask: inout Mask, _ options: FrankWolfeOptions, _ progress: (_ iterations: Int) throws -> Void,
    _ outcome: inout FrankWolfeOutcome
  ) throws -> [Double] {
    let pattern = mask.pattern
    if options.step == .pairwise {
      try movePairs(pattern, options, progress)
    } else {
      try descend(pattern, options, progress)
    }
    if options.keepsRelaxed { outcome.relaxed += relaxed() }
    let bounds = options.alpha == 0 ? lowerBounds(pattern) : []
    round(pattern)
    take(into: &mask, heldOut: options.heldOut, onlyImproves: options.onlyImproves, &outcome)
    return bounds
  }

  private mutating func descend(
    _ pattern: SparsityPattern, _ options: FrankWolfeOptions, _ progress: (_ iterations: Int) throws -> Void
  ) throws {
    let all = 0..<range.count
    var changes = VertexChanges(rows: all.count, columns: columns)
    for iteration in 0...options.iterations {
      try progress(iteration)
      step(iteration, pattern, options, &changes)
      guard iteration < options.iterations, hasRow(in: all, where: \.isActive) else { return }
      updateProducts(
        all, changes, refresh: iteration > 0 && iteration % options.refreshInterval == 0,
        backwards: iteration % 2 == 1)
    }
  }

  /// Takes the step to the last vertex (in iteration 0 all the way to the start), then finds the next one.
  private mutating func step(
    _ iteration: Int, _ pattern: SparsityPattern, _ options: FrankWolfeOptions,
    _ changes: inout VertexChanges
  ) {
    let changes = VertexChanges.Spans(&changes)
    forEachRow { row, scratch in
      guard row.state.isActive else { return }
      row.loadWeights(into: scratch)
      let eta =
        options.step == .openLoop || iteration == 0
        ? openLoopStep(iteration)
        : lineSearchStep(loss: row.state.loss, gap: row.state.gap, atVertex: row.vertexLoss(scratch))
      row.step(eta, scratch)
      row.chooseVertex(pattern, scratch)
      row.state.gap = max(0, 2 * (row.state.top - row.state.inside))
      row.state.iterations = iteration
      row.keepBest()
      if iteration == options.iterations || row.state.gap <= options.tolerance * row.state.loss {
        row.end(changes)
      } else {
        row.replaceVertex(changes, row.index, scratch)
      }
    }
  }
}

/// The step to the vertex that was found before iteration t, `2 / (t' + 2)` with t' = t - 1; at first all the way to the start.
func openLoopStep(_ iteration: Int) -> Float { iteration == 0 ? 1 : 2 / Float(iteration + 1) }

/// The exact minimum between x and the vertex, where `(1-t)^2 loss + 2 t (1-t) (loss - gap / 2) + t^2 atVertex` is least for t in
/// 0...1.
func lineSearchStep(loss: Double, gap: Double, atVertex: Double) -> Float {
  let curvature = atVertex - loss + gap
  return curvature > 0 ? Float(min(1, gap / (2 * curvature))) : 1
}
