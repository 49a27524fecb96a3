/// How many weights a mask keeps, and where.
public enum SparsityPattern: Hashable, Sendable {
  /// Every row keeps the same number: of `columns` weights, `floor(columns * sparsity)` are pruned.
  case rows(sparsity: Double)
  /// Of every `of` consecutive weights of a row, `keep` are kept (N:M, with the kept count first).
  case groups(keep: Int, of: Int)

  /// Weights that each row of `columns` keeps.
  public func kept(ofColumns columns: Int) -> Int {
    switch self {
    case .rows(let sparsity): columns - Int(Double(columns) * sparsity)
    case .groups(let keep, let of): columns / of * keep
    }
  }

  /// Whether a matrix with `columns` inputs can have this pattern.
  public func fits(columns: Int) -> Bool {
    switch self {
    case .rows: true
    case .groups(_, let of): columns % of == 0
    }
  }

  /// The run of consecutive weights inside which a swap may move: a group, or the whole row.
  public func span(ofColumns columns: Int) -> Int {
    switch self {
    case .rows: columns
    case .groups(_, let of): of
    }
  }
}

extension SparsityPattern: CustomStringConvertible {
  /// `2:4`, or the share of a row that is pruned, as in `60%`.
  public var description: String {
    switch self {
    case .rows(let sparsity):
      // 0.29 * 100 is not 29.
      let percent = (sparsity * 1e6).rounded() / 1e4
      return percent == percent.rounded() ? "\(Int(percent))%" : "\(fixed(percent, 2))%"
    case .groups(let keep, let of): return "\(keep):\(of)"
    }
  }
}
