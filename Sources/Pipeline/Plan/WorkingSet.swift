/// Bytes of memory by their use.
public struct WorkingSet: Sendable {
  public var weights = 0
  public var activations = 0
  public var factor = 0
  public var rows = 0

  public init(weights: Int = 0, activations: Int = 0, factor: Int = 0, rows: Int = 0) {
    self.weights = weights
    self.activations = activations
    self.factor = factor
    self.rows = rows
  }

  public var total: Int { weights + activations + factor + rows }

  public static func + (left: WorkingSet, right: WorkingSet) -> WorkingSet {
    WorkingSet(
      weights: left.weights + right.weights, activations: left.activations + right.activations,
      factor: left.factor + right.factor,
      rows: left.rows + right.rows)
  }
}
