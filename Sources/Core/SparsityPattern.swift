/// How many weights a mask keeps, and where.
public enum SparsityPattern: Hashable, Sendable {
  /// Every row keeps the same number: of `columns` weights, `floor(columns * sparsity)` are pruned.
  case rows(sparsity: Double)
  /// The matrix as a whole keeps as many weights as with ``rows(sparsity:)``; rows may keep more or fewer.
  case matrix(sparsity: Double)
  /// Of every `of` consecutive weights of a row, `keep` are kept (N:M, with the kept count first).
  case groups(keep: Int, of: Int)

  /// Weights that each row of `columns` keeps; with ``matrix(sparsity:)``, on average.
  public func kept(ofColumns columns: Int) -> Int {
    switch self {
    case .rows(let sparsity), .matrix(let sparsity): columns - Int(Double(columns) * sparsity)
    case .groups(let keep, let of): columns / of * keep
    }
  }

  /// Whether a matrix with `columns` inputs can have this pattern.
  public func fits(columns: Int) -> Bool {
    switch self {
    case .rows, .matrix: true
    case .groups(_, let of): columns % of == 0
    }
  }

  /// The run of consecutive weights inside which a swap may move: a group, or the whole row.
  public func span(ofColumns columns: Int) -> Int {
    switch self {
    case .rows, .matrix: columns
    case .groups(_, let of): of
    }
  }
}

extension SparsityPattern: CustomStringConvertible {
  /// `2:4`, or the share that is pruned of a row, as in `60%`, or of the whole matrix, as in `60% of the matrix`.
  public var description: String {
    switch self {
    case .rows(let sparsity): return percent(sparsity)
    case .matrix(let sparsity): return percent(sparsity) + " of the matrix"
    case .groups(let keep, let of): return "\(keep):\(of)"
    }
  }

  private func percent(_ share: Double) -> String {
    // 0.29 * 100 is not 29.
    let percent = (share * 1e6).rounded() / 1e4
    return percent == percent.rounded() ? "\(Int(percent))%" : "\(fixed(percent, 2))%"
  }
}
