import CKernels
import EspalierCore
import Synchronization

/// Frank-Wolfe with one budget for the whole matrix. Alpha freezes inside each row: no row falls below that
/// share of what it keeps.
///
/// All rows move at once, so that x, c and the product of the vertex with G are held for all of them: three
/// f32 for each weight.
func frankWolfeOverMatrix(
  _ weight: LinearWeight, _ gram: GramMatrix, _ mask: inout Mask, _ options: FrankWolfeOptions,
  _ progress: (Int, Int) throws -> Void
) throws -> FrankWolfeOutcome {
  let room = StepRoom(rows: min(relaxedRows, weight.rows), columns: weight.columns)
  var whole = RelaxedMatrix(weight, gram, mask, options, room)
  var outcome = FrankWolfeOutcome()
  if options.step == .pairwise && whole.budget > 0 {
    try whole.settle(options, progress)
  } else {
    try whole.descend(options, room, progress)
  }
  if options.keepsRelaxed { for block in whole.blocks { outcome.relaxed += block.relaxed() } }
  let bounds = options.alpha == 0 ? [whole.lowerBound()] : []
  whole.round(into: &mask, options, room, &outcome)
  (outcome.relaxedLoss, outcome.gap) = (whole.loss, whole.gap)
  outcome.finish(weight, gram, mask, bounds)
  return outcome
}

/// The relaxed masks of all rows, which share one budget.
private struct RelaxedMatrix {
  let blocks: [RelaxedBlock]
  let columns: Int
  let padded: Int
  /// Kept weights of the matrix, and those that are not frozen.
  let kept: Int
  let budget: Int
  /// Of the relaxed mask, over the matrix.
  var loss = 0.0
  var gap = Double.infinity
  /// The least score of the last vertex.
  var threshold: Float = 0

  init(
    _ weight: LinearWeight, _ gram: GramMatrix, _ mask: Mask, _ options: FrankWolfeOptions, _ room: StepRoom
  ) {
    let scores = SaliencyScores(weight, gram, options)
    blocks = parts(of: weight.rows, size: relaxedRows).map { rows in
      let block = RelaxedBlock(weight, gram: gram, rows: rows, keepsBest: false)
      block.start(mask, options, scores, room)
      return block
    }
    columns = weight.columns
    padded = paddedCount(columns)
    kept = mask.keptCount
    budget = Int(blocks.reduce(0) { $0 + $1.sum { Double($0.budget) } })
  }

  func sum(_ value: (RelaxedRow) -> Double) -> Double { blocks.reduce(0) { $0 + $1.sum(value) } }

  mutating func descend(
    _ options: FrankWolfeOptions, _ room: StepRoom, _ progress: (Int, Int) throws -> Void
  ) throws {
    for iteration in 0...options.iterations {
      try progress(iteration, options.iterations)
      let eta =
        options.step == .openLoop || iteration == 0
        ? openLoopStep(iteration) : stepToward(loss: loss, gap: gap, atVertex: atVertex())
      forEachRow { scratch, arrays in
        scratch.load(arrays.weight, row: arrays.row) { w, s, _, _ in
          arrays.advance(padded, eta, w, s)
          arrays.state.pointee.iterations = iteration
        }
      }
      loss = sum(\.loss)
      let selection = select(budget, near: threshold) { arrays, w, s in
        espalier_fw_scores(padded, w, arrays.frozen, arrays.c, s)
      }
      threshold = selection.threshold
      allot(selection.ties)
      for block in blocks {
        block.chooseVertices(selection.threshold, room)
        if iteration < options.iterations {
          block.updateProducts(
            room, refresh: iteration > 0 && iteration % options.refreshInterval == 0,
            backwards: iteration % 2 == 1)
        }
      }
      gap = max(0, 2 * sum { $0.top - $0.inside })
      if gap <= options.tolerance * loss { return }
    }
  }

  /// The counterpart of pairwise steps: mass has one price for all rows, which take exact steps of single
  /// entries at it, and the price is moved until they spend the budget.
  ///
  /// The bound holds at any price and any x; the price is only to be near.
  mutating func settle(_ options: FrankWolfeOptions, _ progress: (Int, Int) throws -> Void) throws {
    for block in blocks { block.startAtVertices() }
    var bracket: (low: Float, high: Float) = (0, .infinity)
    let turns = 16
    var price = select(budget, near: 0) { arrays, w, s in
      espalier_fw_scores(padded, w, arrays.frozen, arrays.c, s)
    }.threshold
    for turn in 0..<turns {
      for (index, block) in blocks.enumerated() {
        try block.settle(price, limit: options.iterations * columns / turns + 1, options.tolerance) { row in
          try progress(
            (turn * blocks.count + index) * relaxedRows + row, turns * blocks.count * relaxedRows)
        }
      }
      let surplus = sum(\.mass) - Double(budget)
      (loss, gap, threshold) = (sum(\.loss), max(0, sum(\.gap) - 2 * Double(price) * surplus), price)
      if abs(surplus) <= 1e-4 * Double(budget) { return }
      if surplus > 0 { bracket.low = price } else { bracket.high = price }
      price =
        bracket.high < .infinity ? (bracket.low + bracket.high) / 2 : max(2 * price, .leastNormalMagnitude)
    }
  }

  /// The loss at the vertex.
  private func atVertex() -> Double {
    forEachRow { scratch, arrays in
      scratch.load(arrays.weight, row: arrays.row) { w, _, _, _ in
        arrays.state.pointee.lossAfter = espalier_fw_vertex_loss(
          padded, w, arrays.vertex, arrays.vertexProduct)
      }
    }
    return sum(\.lossAfter)
  }

  private func forEachRow(_ body: (inout RowScratch, RowArrays) -> Void) {
    for block in blocks { block.forEachRow(nil, body) }
  }

  /// Finds the `count` largest of the positive values of all rows: histograms of ever smaller ranges of their
  /// bits, which order like the values; the first range is about a guess, and all positive values where that
  /// misses.
  ///
  /// - Parameter values: writes the values of a row, `padded` of them.
  private func select(
    _ count: Int, near guess: Float,
    _ values: (RowArrays, UnsafePointer<Float>, UnsafeMutablePointer<Float>) -> Void
  ) -> GlobalSelection {
    guard count > 0 else { return GlobalSelection(threshold: .infinity, ties: 0) }
    let positive = Float.leastNonzeroMagnitude.bitPattern..<Float.infinity.bitPattern
    var range = guess > 1e-30 ? (0.93 * guess).bitPattern..<(1.07 * guess).bitPattern : positive
    while true {
      let shift = max(0, UInt32.bitWidth - 11 - (UInt32(range.count) - 1).leadingZeroBitCount)
      let (counts, above) = histogram(range, shift: shift, values)
      var (slot, larger) = (2047, above)
      while slot > 0, larger + Int(counts[slot]) < count {
        larger += Int(counts[slot])
        slot -= 1
      }
      let within = Int(counts[slot])
      if above >= count || larger + within < count {
        // Outside of the guessed range; or fewer are positive, and all of them are chosen.
        if range == positive { return GlobalSelection(threshold: 0, ties: 0) }
        range = positive
        continue
      }
      let start = range.lowerBound + UInt32(slot) << UInt32(shift)
      if shift == 0 {
        let threshold = Float(bitPattern: start)
        let areAllTaken = larger + within == count
        if !areAllTaken { countEqual(threshold, values) }
        return GlobalSelection(threshold: threshold, ties: areAllTaken ? nil : count - larger)
      }
      range = start..<start + 1 << UInt32(shift)
    }
  }

  private func histogram(
    _ range: Range<UInt32>, shift: Int,
    _ values: (RowArrays, UnsafePointer<Float>, UnsafeMutablePointer<Float>) -> Void
  ) -> (counts: [UInt64], above: Int) {
    let total = Mutex([UInt64](repeating: 0, count: 2049))
    forEachRow { scratch, arrays in
      scratch.load(arrays.weight, row: arrays.row) { w, s, _, _ in
        values(arrays, w, s)
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 2049) { counts in
          counts.initialize(repeating: 0)
          counts[2048] = UInt64(
            espalier_fw_histogram(
              padded, s, range.lowerBound, range.upperBound, Int32(shift), counts.baseAddress))
          total.withLock { total in for slot in 0...2048 { total[slot] += counts[slot] } }
        }
      }
    }
    return total.withLock { ($0, Int($0[2048])) }
  }

  /// Counts each row's values that equal the threshold.
  private func countEqual(
    _ threshold: Float,
    _ values: (RowArrays, UnsafePointer<Float>, UnsafeMutablePointer<Float>) -> Void
  ) {
    forEachRow { scratch, arrays in
      scratch.load(arrays.weight, row: arrays.row) { w, s, _, _ in
        values(arrays, w, s)
        arrays.state.pointee.equal = espalier_fw_count_equal(padded, s, threshold)
      }
    }
  }

  /// Tells every row how many of its values that equal the threshold it may take: the first ones of all.
  private func allot(_ ties: Int?) {
    var left = ties ?? 0
    for block in blocks {
      block.withRows { _, state, _ in
        state.ties = ties == nil ? columns : min(left, state.equal)
        left -= state.ties
      }
    }
  }

  /// Rounds to the largest x of the matrix, frozen entries first.
  func round(
    into mask: inout Mask, _ options: FrankWolfeOptions, _ room: StepRoom, _ outcome: inout FrankWolfeOutcome
  ) {
    let selection = select(kept, near: 0) { arrays, _, s in arrays.ranks(columns, s) }
    allot(selection.ties)
    forEachRow { scratch, arrays in
      scratch.load(arrays.weight, row: arrays.row) { _, s, _, _ in
        arrays.ranks(columns, s)
        arrays.vertex.update(repeating: 0, count: padded / 64)
        _ = espalier_fw_above(padded, s, selection.threshold, arrays.state.pointee.ties, arrays.vertex)
      }
    }
    let start = mask
    for block in blocks { block.take(into: &mask, options, room, onlyImproves: false, &outcome) }
    let isBetter =
      options.heldOut == nil
      ? outcome.lossAfter < outcome.lossBefore
      : outcome.heldOutAfter ?? 0 < outcome.heldOutBefore ?? 0
    if options.onlyImproves && !isBetter {
      mask = start
      (outcome.lossAfter, outcome.heldOutAfter) = (outcome.lossBefore, outcome.heldOutBefore)
      outcome.rowsKept = mask.rows
    }
  }

  /// A lower bound of the loss of any mask that keeps as many weights, from x, with c computed anew in f64.
  ///
  /// What the `kept` largest scores sum to is at most `kept t` and what each score exceeds t by, for any t.
  func lowerBound() -> Double {
    let threshold = Double(threshold)
    let terms = blocks.flatMap { block in
      block.preciseTerms { scores, _ in scores.reduce(0) { $0 + min($1, threshold) } }
    }
    let taken = kept > 0 ? 2 * threshold * Double(kept) : 0
    return max(0, terms.reduce(0, +) - taken)
  }
}

/// Which values of a matrix are the largest: those above a threshold, and some of those equal to it.
private struct GlobalSelection {
  let threshold: Float
  /// How many of those equal to it; nil: all.
  let ties: Int?
}

extension RowArrays {
  /// What rounding goes by: x, frozen entries first; no value is 0.
  fileprivate func ranks(_ columns: Int, _ values: UnsafeMutablePointer<Float>) {
    for index in 0..<columns {
      let isFrozen = frozen[index / 64] >> UInt64(index % 64) & 1 == 1
      values[index] = isFrozen ? 2 : max(x[index], .leastNormalMagnitude)
    }
  }
}

extension RelaxedBlock {
  /// Finds the vertices of the rows for a threshold and lists what changes.
  fileprivate func chooseVertices(_ threshold: Float, _ room: StepRoom) {
    let padded = padded
    room.withLists { changes, starts in
      forEachRow { scratch, arrays in
        scratch.load(self.weight, row: arrays.row) { w, s, _, next in
          let row = arrays.state
          espalier_fw_scores(padded, w, arrays.frozen, arrays.c, s)
          next.update(from: arrays.frozen, count: padded / 64)
          row.pointee.top = espalier_fw_above(padded, s, threshold, row.pointee.ties, next)
          arrays.list(padded, w, next, changes, starts, room)
        }
      }
    }
  }
}
