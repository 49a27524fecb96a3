import CKernels
import EspalierCore

/// A row whose losses differ by more than this share of its loss before is searched again from fresh correlations.
private let allowedDrift = 1e-4
/// How often a row is searched again at most.
private let mostRepeats = 3

/// Refines the mask by best-improvement 1-swaps, row by row, to a local optimum or to `options.limit` swaps a row
/// (SparseSwaps, arXiv 2512.10922, algorithm 1).
///
/// A swap prunes a kept weight and restores a pruned one of the same row or, for N:M, of the same group; counts stay exact. The loss
/// of every row is computed from its mask at the end.
///
/// - Parameters:
///   - weight: `rows x columns`, without a mask of its own.
///   - gram: `columns x columns`.
///   - shift: what the targets have beyond the outputs of the dense rows; nil if nothing.
///   - rows: those that are refined, whole blocks of them; nil for all.
///   - progress: called with the rows that are done, of all.
/// - Throws: what `progress` throws.
public func refineBySwaps(
  _ weight: LinearWeight, gram: GramMatrix, shift: TargetShift? = nil, mask: inout Mask, options: SwapOptions,
  rows: Range<Int>? = nil, on device: Device,
  progress: (_ done: Int, _ of: Int) throws -> Void = { _, _ in }
) rethrows -> BlockOutcomes<SwapOutcome> {
  precondition(
    gram.columns == weight.columns && mask.rows == weight.rows && mask.columns == weight.columns
      && weight.mask == nil)
  let search = MoveSearch(gram, mask.pattern, moves: options.moves, on: device)
  let blocks = weight.blocks(of: rows)
  var outcomes = BlockOutcomes<SwapOutcome>()
  for rows in blocks {
    var outcome = SwapOutcome()
    var block = RowBlock(weight, mask, rows: rows, on: device)
    let shifts = RowShifts(shift, rows, of: weight, on: device)
    let heldShifts = RowShifts(options.heldOutShift, rows, of: weight, on: device)
    block.refine(search, gram, shifts, heldShifts, options, into: &outcome, on: device)
    block.storeKept(into: &mask)
    outcomes.blocks.append(outcome)
    let first = blocks.first?.lowerBound ?? 0
    try progress(rows.upperBound - first, (blocks.last?.upperBound ?? 0) - first)
  }
  return outcomes
}

extension RowBlock {
  /// Refines all rows, computes their losses from their masks, and searches those again whose losses differ.
  fileprivate mutating func refine(
    _ search: borrowing MoveSearch, _ gram: GramMatrix, _ shifts: borrowing RowShifts,
    _ heldShifts: borrowing RowShifts, _ options: SwapOptions, into outcome: inout SwapOutcome,
    on device: Device
  ) {
    var found = self.search(
      search, gram, shifts, heldShifts, options, [(0..<rows.count, options.limit)], on: device)
    let loss = Loss(gram, on: device)
    var losses = loss.ofRows(prunedPart(on: device), shifts: shifts)
    let scales = shifts.isNone ? found.map(\.before) : scales(gram.diagonal)
    for _ in 0..<mostRepeats {
      let drifts = found.indices.map {
        scales[$0] > 0 ? abs(found[$0].after - losses[$0]) / scales[$0] : 0
      }
      outcome.drift = drifts.reduce(outcome.drift, max)
      let again = drifts.indices.filter { drifts[$0] > allowedDrift }
      guard !again.isEmpty else { break }
      outcome.rowsSearchedAgain += again.count
      let more = self.search(
        search, gram, shifts, heldShifts, options,
        again.map { row in (row..<row + 1, options.limit.map { max(0, $0 - Int(found[row].moves)) }) },
        on: device)
      for (row, more) in zip(again, more) { found[row].add(more) }
      losses = loss.ofRows(prunedPart(on: device), shifts: shifts)
    }
    for (row, loss) in zip(found, losses) { outcome.add(row, loss: loss) }
  }

  /// Searches ranges of rows, each with a limit of moves, from fresh correlations.
  private mutating func search(
    _ search: borrowing MoveSearch, _ gram: GramMatrix, _ shifts: borrowing RowShifts,
    _ heldShifts: borrowing RowShifts, _ options: SwapOptions,
    _ ranges: [(rows: Range<Int>, limit: Int?)], on device: Device
  ) -> [espalier_swap_outcome] {
    var correlations = Matrix(unfilled: rows.count, columns: columns)
    var heldOut = Matrix(unfilled: options.heldOut == nil ? 0 : rows.count, columns: columns)
    let starts: Buffer<espalier_swap_start>
    do {
      let pruned = prunedPart(on: device)
      gram.multiply(pruned, rows: rows.count, into: &correlations, on: device)
      options.heldOut?.multiply(pruned, rows: rows.count, into: &heldOut, on: device)
      shifts.add(to: &correlations)
      heldShifts.add(to: &heldOut)
      starts = self.starts(shifts, heldOut: heldShifts, pruned, diagonal: gram.diagonal)
    }
    var outcomes: [espalier_swap_outcome] = []
    for (rows, limit) in ranges {
      outcomes += search.refine(
        &self, rows: rows, correlations: correlations, heldOut: options.heldOut, heldOutCorrelations: heldOut,
        starts: starts, limit: limit, on: device)
    }
    return outcomes
  }
}

extension espalier_swap_outcome {
  /// Adds a second search of the same row.
  fileprivate mutating func add(_ more: espalier_swap_outcome) {
    (after, held_after, limited, stopped) = (more.after, more.held_after, more.limited, more.stopped)
    moves += more.moves
    evaluated += more.evaluated
    choices += more.choices
  }
}
