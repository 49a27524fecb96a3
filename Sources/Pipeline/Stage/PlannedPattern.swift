import EspalierCore

/// The pattern of a mask, as far as it is known before any work.
public enum PlannedPattern: Hashable, Sendable {
  case known(SparsityPattern)
  /// All rows keep the same number of weights; an allocation will decide how many.
  case allocatedRows
  /// Rows may keep different numbers of weights; an allocation will decide how many the matrix keeps.
  case allocatedMatrix
  /// N:M; an allocation will decide how many of every `of` weights are kept.
  case allocatedGroups(of: Int)

  /// The whole pattern; nil if an allocation will decide how sparse it is.
  public var known: SparsityPattern? { if case .known(let pattern) = self { pattern } else { nil } }

  /// Whether rows may keep different numbers of weights.
  public var isAcrossRows: Bool {
    switch self {
    case .known(.matrix), .allocatedMatrix: true
    case .known, .allocatedRows, .allocatedGroups: false
    }
  }

  /// This pattern if weights may move from row to row; nil for groups, which do not allow it.
  public var acrossRows: PlannedPattern? {
    switch self {
    case .known(let pattern): pattern.acrossRows.map(PlannedPattern.known)
    case .allocatedRows, .allocatedMatrix: .allocatedMatrix
    case .allocatedGroups: nil
    }
  }
}

extension PlannedPattern: CustomStringConvertible {
  public var description: String {
    switch self {
    case .known(let pattern): pattern.description
    case .allocatedRows: "an allocated share of every row"
    case .allocatedMatrix: "an allocated share of the matrix"
    case .allocatedGroups(let of): "an allocated number of every \(of) weights"
    }
  }
}

extension SparsityPattern {
  /// This pattern if weights may move from row to row; nil for groups, which do not allow it.
  public var acrossRows: SparsityPattern? {
    switch self {
    case .rows(let sparsity), .matrix(let sparsity): .matrix(sparsity: sparsity)
    case .groups: nil
    }
  }
}
