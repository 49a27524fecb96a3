import CKernels
import EspalierCore

/// Rows that are held at a time; their first correlations with G come from one product.
private let rowBlock = 256
/// A row whose losses lie further apart than this share of its loss before is searched again from fresh correlations.
private let allowedDrift = 1e-4
/// How often a row is searched again at most.
private let mostRepeats = 3

/// Refines the mask by best-improvement 1-swaps, row by row, to a local optimum or to `options.limit` swaps a row
/// (SparseSwaps, arXiv 2512.10922, algorithm 1).
///
/// A swap prunes a kept weight and restores a pruned one of the same row or, for N:M, of the same group; counts stay exact. The loss
/// of every row is computed anew at the end.
///
/// - Parameters:
///   - weight: `rows x columns`, without a mask of its own.
///   - gram: `columns x columns`.
///   - progress: called with the rows that are done, of all.
/// - Throws: what `progress` throws.
public func refineBySwaps(
  _ weight: LinearWeight, gram: GramMatrix, mask: inout Mask, options: SwapOptions,
  progress: (_ done: Int, _ of: Int) throws -> Void = { _, _ in }
) rethrows -> SwapOutcome {
  precondition(
    gram.columns == weight.columns && mask.rows == weight.rows && mask.columns == weight.columns
      && weight.mask == nil)
  if case .groups(let keep, let of) = mask.pattern, GroupSwaps.fits(of: of) {
    let search = GroupSwaps(gram, keep: keep, of: of, moves: options.moves)
    return try refine(weight, gram, &mask, options, by: search, progress)
  }
  let search = RowSwaps(gram, span: mask.pattern.span(ofColumns: gram.columns))
  return try refine(weight, gram, &mask, options, by: search, progress)
}

private func refine(
  _ weight: LinearWeight, _ gram: GramMatrix, _ mask: inout Mask, _ options: SwapOptions,
  by search: borrowing some RowSearch & ~Copyable, _ progress: (_ done: Int, _ of: Int) throws -> Void
) rethrows -> SwapOutcome {
  var outcome = SwapOutcome()
  var block = SwapBlock(rows: min(rowBlock, weight.rows), columns: weight.columns, options: options)
  for rows in parts(of: weight.rows, size: rowBlock) {
    block.load(weight, rows: rows, mask: mask)
    block.refine(search, gram, rows: rows.count, into: &outcome)
    block.store(rows: rows, mask: &mask)
    try progress(rows.upperBound, weight.rows)
  }
  return outcome
}

/// The loss of a mask: the sum over all rows of `((1-m).w)^T G ((1-m).w)`.
public func maskLoss(_ weight: LinearWeight, gram: GramMatrix, mask: Mask) -> Double {
  precondition(gram.columns == weight.columns && mask.rows == weight.rows && mask.columns == weight.columns)
  var block = SwapBlock(rows: min(rowBlock, weight.rows), columns: weight.columns, options: SwapOptions())
  var loss = 0.0
  for rows in parts(of: weight.rows, size: rowBlock) {
    block.load(weight, rows: rows, mask: mask)
    loss = block.losses(gram, rows: rows.count).reduce(loss, +)
  }
  return loss
}

/// Weights, masks and correlations of a block of rows.
private struct SwapBlock: ~Copyable {
  let columns: Int
  let options: SwapOptions
  var weights: Matrix
  var pruned: Matrix
  var correlations: Matrix
  var heldOutCorrelations: Matrix
  var kept: Buffer<UInt8>

  init(rows: Int, columns: Int, options: SwapOptions) {
    self.columns = columns
    self.options = options
    weights = Matrix(rows: rows, columns: columns)
    pruned = Matrix(rows: rows, columns: columns)
    correlations = Matrix(rows: rows, columns: columns)
    heldOutCorrelations = Matrix(rows: options.heldOut == nil ? 0 : rows, columns: columns)
    kept = Buffer(count: rows * columns)
  }

  mutating func load(_ weight: LinearWeight, rows: Range<Int>, mask: Mask) {
    let columns = columns
    weights.elements.withUnsafeMutable { w in
      kept.withUnsafeMutable { kept in
        mask.bits.withUnsafeBufferPointer { bits in
          nonisolated(unsafe) let (w, kept, bits) = (w.baseAddress!, kept.baseAddress!, bits.baseAddress!)
          Threads.forEach(rows.count) { index in
            let row = rows.lowerBound + index
            weight.load(row..<row + 1, into: w + index * columns)
            espalier_unpack_bits(columns, bits + row * mask.rowBytes, kept + index * columns)
          }
        }
      }
    }
  }

  /// Refines all rows, computes their losses anew, and searches those again whose losses differ.
  mutating func refine(
    _ search: borrowing some RowSearch & ~Copyable, _ gram: GramMatrix, rows: Int,
    into outcome: inout SwapOutcome
  ) {
    correlate(gram, rows: rows)
    var found = run(search, 0..<rows, limit: options.limit)
    var losses = losses(gram, rows: rows)
    for _ in 0..<mostRepeats {
      let drifts = (0..<rows).map { Self.drift(found[$0], losses[$0]) }
      outcome.drift = drifts.reduce(outcome.drift, max)
      let again = (0..<rows).filter { drifts[$0] > allowedDrift }
      guard !again.isEmpty else { break }
      outcome.rowsSearchedAgain += again.count
      correlate(gram, rows: rows)
      for row in again {
        let left = options.limit.map { max(0, $0 - found[row].moves) }
        for more in run(search, row..<row + 1, limit: left) { found[row].add(more) }
      }
      losses = self.losses(gram, rows: rows)
    }
    for (row, loss) in zip(found, losses) { outcome.add(row, loss: loss) }
  }

  private static func drift(_ row: RowOutcome, _ loss: Double) -> Double {
    row.before > 0 ? abs(row.after - loss) / row.before : 0
  }

  private mutating func prune(rows: Int) {
    let columns = columns
    weights.elements.withUnsafe { w in
      pruned.elements.withUnsafeMutable { d in
        kept.withUnsafe { kept in
          nonisolated(unsafe) let (w, d, kept) = (w.baseAddress!, d.baseAddress!, kept.baseAddress!)
          Threads.forEach(rows) { row in
            espalier_pruned_part(columns, w + row * columns, kept + row * columns, d + row * columns)
          }
        }
      }
    }
  }

  /// c = ((1-m).w) G for all rows of the block.
  private mutating func correlate(_ gram: GramMatrix, rows: Int) {
    prune(rows: rows)
    gram.multiply(pruned, rows: rows, into: &correlations)
    options.heldOut?.multiply(pruned, rows: rows, into: &heldOutCorrelations)
  }

  /// `((1-m).w)^T G ((1-m).w)` of every row, from its mask.
  mutating func losses(_ gram: GramMatrix, rows: Int) -> [Double] {
    prune(rows: rows)
    return gram.quadraticForms(pruned, rows: rows)
  }

  private mutating func run(_ search: borrowing some RowSearch & ~Copyable, _ rows: Range<Int>, limit: Int?)
    -> [RowOutcome]
  {
    let start = rows.lowerBound * columns
    return weights.elements.withUnsafe { w in
      correlations.elements.withUnsafe { c in
        heldOutCorrelations.elements.withUnsafe { h in
          kept.withUnsafeMutable { kept in
            search.refine(
              rows: rows.count, weights: w.baseAddress! + start, correlations: c.baseAddress! + start,
              kept: kept.baseAddress! + start, limit: limit,
              heldOut: options.heldOut.map { (gram: $0, correlations: h.baseAddress! + start) })
          }
        }
      }
    }
  }

  borrowing func store(rows: Range<Int>, mask: inout Mask) {
    let rowBytes = mask.rowBytes
    kept.withUnsafe { kept in
      mask.withUnsafeMutableBits { bits in
        for (index, row) in rows.enumerated() {
          espalier_pack_bits(columns, kept.baseAddress! + index * columns, bits.baseAddress! + row * rowBytes)
        }
      }
    }
  }
}

extension RowOutcome {
  /// Adds a second search of the same row.
  fileprivate mutating func add(_ more: RowOutcome) {
    after = more.after
    heldOutAfter = more.heldOutAfter
    moves += more.moves
    atLimit = more.atLimit
    stoppedByHeldOut = more.stoppedByHeldOut
    evaluated += more.evaluated
    choices += more.choices
  }
}

extension SwapOutcome {
  fileprivate mutating func add(_ row: RowOutcome, loss: Double) {
    lossBefore += row.before
    lossAfter += loss
    heldOutBefore += row.heldOutBefore
    heldOutAfter += row.heldOutAfter
    swaps += row.moves
    mostSwaps = max(mostSwaps, row.moves)
    rowsAtLimit += row.atLimit ? 1 : 0
    rowsStoppedByHeldOut += row.stoppedByHeldOut ? 1 : 0
    evaluatedPairs += row.evaluated
    allPairs += row.choices
  }
}
