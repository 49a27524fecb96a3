import CKernels
import EspalierCore

/// Rows that are held at a time.
let relaxedRows = 256

/// Refines the mask by Frank-Wolfe on its relaxation, `0 <= x <= 1` with the pattern's counts, and rounds to
/// the largest x (SparseFW, arXiv 2510.13713, algorithm 2, with the gradient taken at the frozen and the
/// moving part together).
///
/// Counts stay exact.
///
/// - Parameters:
///   - weight: `rows x columns`, without a mask of its own.
///   - gram: `columns x columns`.
///   - mask: the start and the result.
///   - progress: called with the parts that are done, of all; what it throws ends the work.
public func frankWolfe(
  _ weight: LinearWeight, gram: GramMatrix, mask: inout Mask, options: FrankWolfeOptions,
  progress: (Int, Int) throws -> Void = { _, _ in }
) throws -> FrankWolfeOutcome {
  precondition(
    gram.columns == weight.columns && mask.rows == weight.rows && mask.columns == weight.columns
      && weight.mask == nil)
  var outcome = FrankWolfeOutcome()
  guard weight.rows > 0, weight.columns > 0 else { return outcome }
  if case .matrix = mask.pattern {
    return try frankWolfeOverMatrix(weight, gram, &mask, options, progress)
  }
  let room = StepRoom(rows: min(relaxedRows, weight.rows), columns: weight.columns)
  let scores = SaliencyScores(weight, gram, options)
  let blocks = parts(of: weight.rows, size: relaxedRows)
  var bounds: [Double] = []
  for (index, rows) in blocks.enumerated() {
    let block = RelaxedBlock(
      weight, gram: gram, rows: rows, keepsBest: options.alpha == 0 && options.step != .pairwise)
    block.start(mask, options, scores, room)
    let advanced = { (iteration: Int) in
      try progress(index * options.iterations + iteration, blocks.count * options.iterations)
    }
    if options.step == .pairwise {
      try block.movePairs(mask.pattern, options, advanced)
    } else {
      try block.descend(mask.pattern, options, room, advanced)
    }
    if options.keepsRelaxed { outcome.relaxed += block.relaxed() }
    if options.alpha == 0 { bounds += block.lowerBounds(mask.pattern) }
    block.round(into: &mask, options, room, &outcome)
  }
  try progress(blocks.count * options.iterations, blocks.count * options.iterations)
  outcome.finish(weight, gram, mask, bounds)
  return outcome
}

extension FrankWolfeOutcome {
  mutating func add(_ row: RelaxedRow, hasHeldOut: Bool) {
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

  /// - Parameter bounds: nothing where alpha is not 0.
  mutating func finish(_ weight: LinearWeight, _ gram: GramMatrix, _ mask: Mask, _ bounds: [Double]) {
    changedShare /= Double(max(1, rowIterations) * weight.columns)
    guard !bounds.isEmpty else { return }
    certificate = Certificate(lowerBounds: bounds)
    // As precise as the bounds.
    lossAfter = rowLosses(weight, gram: gram, mask: mask).reduce(0, +)
  }
}

extension RelaxedBlock {
  /// Frank-Wolfe steps of all rows, each for itself.
  func descend(
    _ pattern: SparsityPattern, _ options: FrankWolfeOptions, _ room: StepRoom,
    _ progress: (Int) throws -> Void
  ) throws {
    for iteration in 0...options.iterations {
      try progress(iteration)
      advance(iteration, pattern, options, room)
      guard iteration < options.iterations, contains({ $0.isActive }) else { return }
      updateProducts(
        room, refresh: iteration > 0 && iteration % options.refreshInterval == 0,
        backwards: iteration % 2 == 1)
    }
  }

  /// Takes the step to the last vertex (in iteration 0 all the way to the start), then finds the next one.
  private func advance(
    _ iteration: Int, _ pattern: SparsityPattern, _ options: FrankWolfeOptions, _ room: StepRoom
  ) {
    let (columns, padded) = (columns, padded)
    room.withLists { changes, starts in
      forEachRow { scratch, arrays in
        let row = arrays.state
        guard row.pointee.isActive else { return }
        scratch.load(self.weight, row: arrays.row) { w, s, few, next in
          let eta =
            options.step == .openLoop || iteration == 0
            ? openLoopStep(iteration) : row.pointee.bestStep(padded, w, arrays)
          arrays.advance(padded, eta, w, s)
          if case .groups(let keep, let size) = pattern {
            row.pointee.top = espalier_fw_largest_in_groups(columns, size, keep, s, arrays.frozen, next)
          } else {
            next.update(from: arrays.frozen, count: padded / 64)
            row.pointee.top = withUnsafeMutableBytes(of: &row.pointee.guess) {
              espalier_fw_largest(
                padded, row.pointee.budget, s, $0.assumingMemoryBound(to: Float.self).baseAddress, few, next)
            }
          }
          row.pointee.gap = max(0, 2 * (row.pointee.top - row.pointee.inside))
          row.pointee.iterations = iteration
          arrays.keepBest(padded)
          if iteration == options.iterations || row.pointee.gap <= options.tolerance * row.pointee.loss {
            row.pointee.isActive = false
            row.pointee.changes = 0
            return (starts + arrays.index * (room.tiles + 1)).update(repeating: 0, count: room.tiles + 1)
          }
          arrays.list(padded, w, next, changes, starts, room)
        }
      }
    }
  }

  /// x of all rows, `rows x columns`.
  func relaxed() -> [Float] {
    var result = [Float](repeating: 0, count: rows.count * columns)
    let columns = columns
    result.withUnsafeMutableBufferPointer { result in
      guard let result = result.baseAddress else { return }
      forEachRow { _, arrays in (result + arrays.index * columns).update(from: arrays.x, count: columns) }
    }
    return result
  }

  /// Rounds every row to its largest x, frozen entries first, into the mask.
  func round(
    into mask: inout Mask, _ options: FrankWolfeOptions, _ room: StepRoom, _ outcome: inout FrankWolfeOutcome
  ) {
    let (columns, span) = (columns, mask.pattern.span(ofColumns: columns))
    var groupKeep: Int?
    if case .groups(let keep, _) = mask.pattern { groupKeep = keep }
    forEachRow { scratch, arrays in
      scratch.load(self.weight, row: arrays.row) { _, _, room, _ in
        arrays.round(columns, span: span, keep: groupKeep ?? arrays.state.pointee.kept, room)
      }
    }
    take(into: &mask, options, room, onlyImproves: options.onlyImproves, &outcome)
  }

  /// Takes the vertices of the rows, or those that are better, into the mask.
  func take(
    into mask: inout Mask, _ options: FrankWolfeOptions, _ room: StepRoom, onlyImproves: Bool,
    _ outcome: inout FrankWolfeOutcome
  ) {
    measure(gram, room, into: \.lossAfter)
    if let heldOut = options.heldOut { measure(heldOut, room, into: \.heldOutAfter) }
    withRows { row, state, vertex in
      if !onlyImproves || state.isBetter(onHeldOut: options.heldOut != nil) {
        mask.setBits(row: row, from: vertex)
      } else {
        (state.lossAfter, state.heldOutAfter) = (state.lossBefore, state.heldOutBefore)
        outcome.rowsKept += 1
      }
      outcome.add(state, hasHeldOut: options.heldOut != nil)
    }
  }
}

/// The step to the vertex that was found before iteration t, `2 / (t' + 2)` with t' = t - 1; at first all the
/// way to the start.
func openLoopStep(_ iteration: Int) -> Float { iteration == 0 ? 1 : 2 / Float(iteration + 1) }

extension RowArrays {
  /// Takes a step to the vertex; `s` becomes the scores there.
  func advance(_ padded: Int, _ eta: Float, _ w: UnsafePointer<Float>, _ s: UnsafeMutablePointer<Float>) {
    var sums = (0.0, 0.0)
    withUnsafeMutableBytes(of: &sums) {
      espalier_fw_advance(
        padded, eta, w, frozen, vertex, vertexProduct, x, c, s,
        $0.assumingMemoryBound(to: Double.self).baseAddress)
    }
    (state.pointee.loss, state.pointee.inside) = sums
  }

  /// The vertex becomes `next`, and what changes is listed.
  func list(
    _ padded: Int, _ w: UnsafePointer<Float>, _ next: UnsafePointer<UInt64>,
    _ changes: UnsafeMutablePointer<espalier_fw_change>, _ starts: UnsafeMutablePointer<UInt32>,
    _ room: StepRoom
  ) {
    let count = espalier_fw_changes(
      padded, w, next, vertex, room.capacity, changes + index * room.capacity,
      starts + index * (room.tiles + 1))
    state.pointee.changes = count
    state.pointee.allChanges += count
  }

  func keepBest(_ padded: Int) {
    let bound = state.pointee.loss - state.pointee.gap
    guard let best, bound > state.pointee.bound else { return }
    state.pointee.bound = bound
    best.update(from: x, count: padded)
  }

  /// The vertex becomes the largest x of every span, frozen entries first.
  ///
  /// - Parameter room: 3 x padded.
  func round(_ columns: Int, span: Int, keep: Int, _ room: UnsafeMutablePointer<Float>) {
    let padded = paddedCount(columns)
    for index in 0..<columns {
      room[index] = frozen[index / 64] >> UInt64(index % 64) & 1 == 1 ? 2 : x[index]
    }
    let order = UnsafeMutableRawPointer(room + padded).assumingMemoryBound(to: UInt32.self)
    let kept = UnsafeMutableRawPointer(room + 2 * padded).assumingMemoryBound(to: UInt8.self)
    for start in stride(from: 0, to: columns, by: span) {
      espalier_select_kept(span, keep, room + start, order, kept + start)
    }
    espalier_pack_bits(columns, kept, UnsafeMutableRawPointer(vertex).assumingMemoryBound(to: UInt8.self))
  }
}

extension RelaxedRow {
  func isBetter(onHeldOut: Bool) -> Bool {
    onHeldOut ? heldOutAfter < heldOutBefore : lossAfter < lossBefore
  }

  /// The exact minimum between x and the vertex: the loss is quadratic along the way, and `c` linear.
  func bestStep(_ padded: Int, _ w: UnsafePointer<Float>, _ arrays: RowArrays) -> Float {
    let atVertex = espalier_fw_vertex_loss(padded, w, arrays.vertex, arrays.vertexProduct)
    return stepToward(loss: loss, gap: gap, atVertex: atVertex)
  }
}

/// Where `(1-t)^2 loss + 2 t (1-t) (loss - gap / 2) + t^2 atVertex` is least for t in 0...1.
func stepToward(loss: Double, gap: Double, atVertex: Double) -> Float {
  let curvature = atVertex - loss + gap
  return curvature > 0 ? Float(min(1, gap / (2 * curvature))) : 1
}
