/// How a mask is refined by swaps.
public struct SwapOptions: Sendable {
  public enum Moves: String, Sendable, CaseIterable {
    /// One kept weight against one pruned weight.
    case single
    /// N:M only: the best pattern of a whole group at once.
    case group
  }

  public enum Budget: Sendable, Hashable {
    /// Every row keeps what it kept.
    case row
    /// Kept weights may move from row to row, but no row keeps fewer than this share of what it kept at first.
    case matrix(floor: Double)
  }

  /// The most swaps of one row; nil goes on to the local optimum.
  public var limit: Int?
  public var moves: Moves
  public var budget: Budget
  /// The Gram matrix of calibration sequences that were held out: a row stops where its loss on them stops falling.
  public var heldOut: GramMatrix?

  public init(
    limit: Int? = nil, moves: Moves = .single, budget: Budget = .row, heldOut: GramMatrix? = nil
  ) {
    self.limit = limit
    self.moves = moves
    self.budget = budget
    self.heldOut = heldOut
  }
}
