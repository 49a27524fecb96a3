/// What happens to the delimiters at which a text is split.
enum SplitBehavior: Sendable {
  case removed, isolated, mergedWithPrevious, mergedWithNext, contiguous

  init(_ node: JSONNode) throws {
    switch try node.string() {
    case "Removed": self = .removed
    case "Isolated": self = .isolated
    case "MergedWithPrevious": self = .mergedWithPrevious
    case "MergedWithNext": self = .mergedWithNext
    case "Contiguous": self = .contiguous
    case let name: throw node.failure("the behavior \"\(name)\" is not known.")
    }
  }
}

/// Turns matches, given from left to right, into the pieces of a text.
///
/// The spans between matches are pieces too. Empty pieces are dropped, but empty matches still separate their neighbors.
struct Splitter {
  let behavior: SplitBehavior
  /// Whether the matches are the text, and the spans between them the delimiters.
  let inverted: Bool
  /// The piece that the next span may still extend, and whether it ends with a match.
  private var open: Range<Int>?
  private var afterMatch = false
  private var end = 0

  init(_ behavior: SplitBehavior, inverted: Bool = false) {
    self.behavior = behavior
    self.inverted = inverted
  }

  mutating func match(_ match: Range<Int>, _ emit: (Range<Int>) throws -> Void) throws {
    if end != match.lowerBound { try span(end..<match.lowerBound, isMatch: inverted, emit) }
    try span(match, isMatch: !inverted, emit)
    end = match.upperBound
  }

  mutating func finish(count: Int, _ emit: (Range<Int>) throws -> Void) throws {
    if end != count { try span(end..<count, isMatch: inverted, emit) }
    if let open, !open.isEmpty { try emit(open) }
  }

  private mutating func span(
    _ range: Range<Int>, isMatch: Bool, _ emit: (Range<Int>) throws -> Void
  ) throws {
    defer { afterMatch = isMatch }
    let joins =
      switch behavior {
      case .removed, .isolated: false
      case .mergedWithPrevious: isMatch && !afterMatch
      case .mergedWithNext: !isMatch && afterMatch
      case .contiguous: isMatch == afterMatch
      }
    if joins, let start = open?.lowerBound {
      open = start..<range.upperBound
      return
    }
    if let open, !open.isEmpty { try emit(open) }
    open = behavior == .removed && isMatch ? nil : range
  }
}
