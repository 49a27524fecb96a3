import CKernels

/// What refining one matrix by swaps did.
public struct SwapOutcome: BlockOutcome {
  /// Sum over the rows of `((1-m).w)^T G ((1-m).w)`; after the swaps it is computed from the mask.
  public var lossBefore = 0.0
  public var lossAfter = 0.0
  /// The same on held-out inputs; 0 if there are none.
  public var heldOutBefore = 0.0
  public var heldOutAfter = 0.0
  /// Swaps that led to the mask, without those that were taken back.
  public var swaps = 0
  /// The most swaps of one row.
  public var mostSwaps = 0
  /// Rows that stopped at the limit and not at a local optimum.
  public var rowsAtLimit = 0
  /// Rows that stopped because their loss on held-out inputs no longer fell.
  public var rowsStoppedByHeldOut = 0
  /// Pairs whose change in loss was computed, and all pairs that there were to choose from.
  public var evaluatedPairs = 0
  public var allPairs = 0
  /// The largest difference, over the rows, between the loss that the swaps added up to and the one of the mask, as a share of the
  /// row's loss before.
  public var drift = 0.0
  /// Rows that were searched again from fresh correlations because of it.
  public var rowsSearchedAgain = 0

  public init() {}

  public mutating func add(_ next: SwapOutcome) {
    lossBefore += next.lossBefore
    lossAfter += next.lossAfter
    heldOutBefore += next.heldOutBefore
    heldOutAfter += next.heldOutAfter
    swaps += next.swaps
    mostSwaps = max(mostSwaps, next.mostSwaps)
    rowsAtLimit += next.rowsAtLimit
    rowsStoppedByHeldOut += next.rowsStoppedByHeldOut
    evaluatedPairs += next.evaluatedPairs
    allPairs += next.allPairs
    drift = max(drift, next.drift)
    rowsSearchedAgain += next.rowsSearchedAgain
  }

  /// Adds a row whose mask has this loss.
  mutating func add(_ row: espalier_swap_outcome, loss: Double) {
    lossBefore += row.before
    lossAfter += loss
    heldOutBefore += row.held_before
    heldOutAfter += row.held_after
    swaps += Int(row.moves)
    mostSwaps = max(mostSwaps, Int(row.moves))
    rowsAtLimit += Int(row.limited)
    rowsStoppedByHeldOut += Int(row.stopped)
    evaluatedPairs += Int(row.evaluated)
    allPairs += Int(row.choices)
  }
}
