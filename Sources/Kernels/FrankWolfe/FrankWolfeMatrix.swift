import CKernels
import EspalierCore
import Synchronization

/// Rounds of steps at one price, if all rows share a budget.
private let mostPrices = 16

/// Frank-Wolfe with one budget for the whole matrix. Alpha freezes inside each row: no row falls below that share of what it keeps.
///
/// All rows move at once, so that x, c and the product of the vertex with G are held for all of them: three f32 for each weight.
extension RelaxedRows {
  /// - Returns: a lower bound of the loss if `alpha` is 0, otherwise none.
  mutating func refineTogether(
    _ mask: inout Mask, _ options: FrankWolfeOptions, _ progress: (_ done: Int, _ of: Int) throws -> Void,
    _ outcome: inout FrankWolfeOutcome
  ) throws -> [Double] {
    let kept = mask.keptCount
    let budget = Int(sum { Double($0.budget) })
    let reached =
      options.step == .pairwise && budget > 0
      ? try findPrice(budget, options, progress) : try descendTogether(budget, options, progress)
    if options.keepsRelaxed { outcome.relaxed = relaxed() }
    let bounds = options.alpha == 0 ? [lowerBound(kept: kept, near: reached.threshold)] : []
    roundTogether(kept)
    let start = mask
    take(into: &mask, heldOut: options.heldOut, onlyImproves: false, &outcome)
    let isBetter =
      options.heldOut == nil
      ? outcome.lossAfter < outcome.lossBefore
      : outcome.heldOutAfter ?? 0 < outcome.heldOutBefore ?? 0
    if options.onlyImproves && !isBetter {
      mask = start
      (outcome.lossAfter, outcome.heldOutAfter) = (outcome.lossBefore, outcome.heldOutBefore)
      outcome.rowsKept = mask.rows
    }
    (outcome.relaxedLoss, outcome.gap) = (reached.loss, reached.gap)
    return bounds
  }

  /// The relaxed mask at the end of the steps: its loss, its gap, and the least score of the last vertex.
  private typealias Reached = (loss: Double, gap: Double, threshold: Float)

  private mutating func descendTogether(
    _ budget: Int, _ options: FrankWolfeOptions, _ progress: (_ done: Int, _ of: Int) throws -> Void
  ) throws -> Reached {
    var reached: Reached = (0, .infinity, 0)
    var changes = VertexChanges(rows: min(RowBlock.mostRows, range.count), columns: columns)
    for iteration in 0...options.iterations {
      try progress(iteration, options.iterations)
      let eta =
        options.step == .openLoop || iteration == 0
        ? openLoopStep(iteration)
        : lineSearchStep(loss: reached.loss, gap: reached.gap, atVertex: vertexLoss())
      forEachRow { row, scratch in
        row.loadWeights(into: scratch)
        row.step(eta, scratch)
        row.state.iterations = iteration
      }
      reached.loss = sum(\.loss)
      let threshold = select(budget, near: reached.threshold) { row, scratch in
        row.loadWeights(into: scratch)
        row.score(scratch)
      }
      reached.threshold = threshold
      for block in blocks {
        chooseVertices(block, above: threshold, &changes)
        if iteration < options.iterations {
          updateProducts(
            block, changes, refresh: iteration > 0 && iteration % options.refreshInterval == 0,
            backwards: iteration % 2 == 1)
        }
      }
      reached.gap = max(0, 2 * sum { $0.top - $0.inside })
      if reached.gap <= options.tolerance * reached.loss { break }
    }
    return reached
  }

  /// Finds the vertices of a block for a threshold, and lists what changes.
  private mutating func chooseVertices(
    _ block: Range<Int>, above threshold: Float, _ changes: inout VertexChanges
  ) {
    let changes = VertexChanges.Spans(&changes)
    forEachRow(block) { row, scratch in
      row.loadWeights(into: scratch)
      row.score(scratch)
      row.chooseVertex(above: threshold, scratch)
      row.replaceVertex(changes, row.index - block.lowerBound, scratch)
    }
  }

  /// The loss at the vertices.
  private mutating func vertexLoss() -> Double {
    forEachRow { row, scratch in
      row.loadWeights(into: scratch)
      row.state.lossAfter = row.vertexLoss(scratch)
    }
    return sum(\.lossAfter)
  }

  /// The counterpart of pairwise steps: mass has one price for all rows, which take exact steps of single entries at it, and the price
  /// is moved until they spend the budget.
  ///
  /// The bound holds at any price and any x; the price is only to be near.
  private mutating func findPrice(
    _ budget: Int, _ options: FrankWolfeOptions, _ progress: (_ done: Int, _ of: Int) throws -> Void
  ) throws -> Reached {
    startAtVertices()
    var bracket: (low: Float, high: Float) = (0, .infinity)
    var price = select(budget, near: 0) { row, scratch in
      row.loadWeights(into: scratch)
      row.score(scratch)
    }
    var reached: Reached = (0, .infinity, 0)
    let blocks = blocks
    for attempt in 0..<mostPrices {
      for (index, block) in blocks.enumerated() {
        try moveAtPrice(
          price, block, limit: options.iterations * columns / mostPrices + 1, options.tolerance
        ) { rows in
          try progress(
            (attempt * blocks.count + index) * RowBlock.mostRows + rows,
            mostPrices * blocks.count * RowBlock.mostRows)
        }
      }
      let surplus = sum(\.mass) - Double(budget)
      reached = (sum(\.loss), max(0, sum(\.gap) - 2 * Double(price) * surplus), price)
      if abs(surplus) <= 1e-4 * Double(budget) { break }
      if surplus > 0 { bracket.low = price } else { bracket.high = price }
      price =
        bracket.high < .infinity ? (bracket.low + bracket.high) / 2 : max(2 * price, .leastNormalMagnitude)
    }
    return reached
  }

  /// The vertices become the largest x of the matrix, frozen entries first.
  private mutating func roundTogether(_ kept: Int) {
    let threshold = select(kept, near: 0) { row, scratch in row.rank(scratch) }
    forEachRow { row, scratch in
      row.rank(scratch)
      var vertex = row.vertex
      for word in vertex.indices { vertex[word] = 0 }
      _ = espalier_fw_above(scratch.scores[0].span, threshold, row.state.ties, &vertex)
    }
  }
}

extension RelaxedRow {
  /// The scores become what rounding goes by: x, frozen entries first; no value is 0.
  fileprivate func rank(_ scratch: RowScratch.Spans) {
    var ranks = scratch.scores[0]
    let x = x
    let frozen = frozen
    for index in 0..<columns {
      ranks[index] = isMember(index, of: frozen.span) ? 2 : max(x[index], .leastNormalMagnitude)
    }
  }
}

// MARK: The largest values of a matrix

extension RelaxedRows {
  /// Finds a threshold for the `count` largest of the positive values of all rows; `ties` of each row become those of its values equal
  /// to it that are among them, the first ones of all.
  ///
  /// Histograms of ever smaller ranges of the values' bits, which order like the values, lead to it. The first range is about a guess,
  /// and all positive values if that misses.
  ///
  /// - Parameter values: sets the scores of a row.
  private mutating func select(
    _ count: Int, near guess: Float, _ values: @Sendable (RelaxedRow, RowScratch.Spans) -> Void
  ) -> Float {
    guard count > 0 else { return share(ties: 0, .infinity) }
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
        if range == positive { return share(ties: 0, 0) }
        range = positive
        continue
      }
      let start = range.lowerBound + UInt32(slot) << UInt32(shift)
      if shift == 0 {
        let threshold = Float(bitPattern: start)
        if larger + within == count { return share(ties: nil, threshold) }
        forEachRow { row, scratch in
          values(row, scratch)
          row.state.equal = espalier_fw_count_equal(scratch.scores[0].span, threshold)
        }
        return share(ties: count - larger, threshold)
      }
      range = start..<start + 1 << UInt32(shift)
    }
  }

  private mutating func histogram(
    _ range: Range<UInt32>, shift: Int, _ values: @Sendable (RelaxedRow, RowScratch.Spans) -> Void
  ) -> (counts: [UInt64], above: Int) {
    let total = Mutex((counts: [UInt64](repeating: 0, count: 2048), above: 0))
    forEachRow { row, scratch in
      values(row, scratch)
      var counts = [UInt64](repeating: 0, count: 2048)
      var slots = counts.mutableSpan
      let above = espalier_fw_histogram(
        scratch.scores[0].span, range.lowerBound, range.upperBound, Int32(shift), &slots)
      total.withLock { total in
        total.above += above
        for slot in counts.indices { total.counts[slot] += counts[slot] }
      }
    }
    return total.withLock { $0 }
  }

  /// Tells every row how many of its values that equal the threshold it may take: the first ones of all, or all if `ties` is nil.
  private mutating func share(ties: Int?, _ threshold: Float) -> Float {
    var left = ties ?? 0
    let columns = columns
    for row in 0..<range.count {
      update(row) { state in
        state.ties = ties == nil ? columns : min(left, state.equal)
        left -= state.ties
      }
    }
    return threshold
  }
}
