import EspalierCore

extension SparsityPattern: ReportValue {
  /// `{"sparsity": 0.5}`, `{"sparsity": 0.5, "budget": "matrix"}` or `{"keep": 2, "of": 4}`.
  public var json: JSON {
    switch self {
    case .rows(let sparsity): ["sparsity": .number(sparsity)]
    case .matrix(let sparsity): ["sparsity": .number(sparsity), "budget": "matrix"]
    case .groups(let keep, let of): ["keep": .integer(keep), "of": .integer(of)]
    }
  }

  /// Reads what ``json`` gave from an object that may have more members; nil if there is no pattern.
  public init?(json: JSON) {
    if let sparsity = json["sparsity"]?.double, (0...1).contains(sparsity) {
      self = json["budget"]?.string == "matrix" ? .matrix(sparsity: sparsity) : .rows(sparsity: sparsity)
    } else if let keep = json["keep"]?.integer, let of = json["of"]?.integer, of > 0, (0...of).contains(keep)
    {
      self = .groups(keep: keep, of: of)
    } else {
      return nil
    }
  }
}
