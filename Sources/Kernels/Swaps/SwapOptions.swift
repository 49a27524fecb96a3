import CKernels
import EspalierCore

/// How a mask is refined by swaps.
public struct SwapOptions: Sendable {
  public enum Moves: String, Sendable, CaseIterable {
    /// One kept weight against one pruned weight.
    case single
    /// N:M only: the best pattern of a whole group at once.
    case group
  }

  public enum Budget: Sendable, Hashable {
    /// Every row keeps as many weights as before.
    case row
    /// Kept weights may move from row to row, but no row keeps less than this share of what it kept at first.
    case matrix(floor: Double)
  }

  /// The most swaps of one row; nil goes on to the local optimum.
  public var limit: Int?
  public var moves: Moves
  public var budget: Budget
  /// The Gram matrix of calibration sequences that were held out: a row stops if its loss on them stops falling.
  public var heldOut: GramMatrix?
  /// The shift of the targets on the held-out sequences; nil if there is none.
  public var heldOutShift: TargetShift?

  public init(
    limit: Int? = nil, moves: Moves = .single, budget: Budget = .row, heldOut: GramMatrix? = nil,
    heldOutShift: TargetShift? = nil
  ) {
    self.limit = limit
    self.moves = moves
    self.budget = budget
    self.heldOut = heldOut
    self.heldOutShift = heldOutShift
  }

  /// Bytes that refining a matrix takes, without the pages of the weight, the Gram matrices and the mask.
  ///
  /// - Parameters:
  ///   - pattern: that of the mask; nil if it is not known yet.
  ///   - rank: the rows of the factor of the Gram matrix; nil if it is whole.
  ///   - holdsOut: whether there will be held-out inputs.
  public func workingSet(
    rows: Int, columns: Int, pattern: SparsityPattern?, rank: Int?, holdsOut: Bool, threads: Int
  ) -> Int {
    guard case .row = budget else {
      return matrixBudgetWorkingSet(rows: rows, columns: columns, rank: rank, threads: threads)
    }
    let product = RowBlock.prunedByteCount(rows: rows, columns: columns)
    let correlations =
      product + (holdsOut ? product : 4)
      + min(RowBlock.mostRows, rows) * MemoryLayout<espalier_swap_start>.stride
    let pairs = (min(RowBlock.mostRows, rows) + 1) / 2
    // A pattern that is not known yet takes the most; the groups are those of most values for each weight.
    let patterns: [SparsityPattern] =
      pattern.map { [$0] } ?? [
        .rows(sparsity: 0.5), moves == .single ? .groups(keep: 16, of: 32) : .groups(keep: 6, of: 12),
      ]
    return patterns.map { pattern in
      let search = MoveSearch.scratchByteCount(
        columns: columns, pattern, moves, hasHeldOut: holdsOut, threads: min(threads, pairs))
      let block = max(
        product + correlations + GramMatrix.productByteCount(rows: min(RowBlock.mostRows, rows), rank: rank),
        correlations + search + min(RowBlock.mostRows, rows) * MemoryLayout<espalier_swap_outcome>.stride,
        product
          + GramMatrix.formsByteCount(
            rows: min(RowBlock.mostRows, rows), columns: columns, rank: rank, threads: threads))
      return max(
        MoveSearch.beginningByteCount(columns: columns, pattern, rank: rank, threads: threads),
        MoveSearch.byteCount(columns: columns, pattern) + RowBlock.byteCount(rows: rows, columns: columns)
          + block)
    }.max() ?? 0
  }
}
