import EspalierCore
import HeapModule

/// Merges one word: append its initial symbols, then call `finish`.
struct WordMerger {
  /// A part of the word: its token (`gone` once merged into its left neighbor) and the places of its neighbors.
  private struct Symbol {
    var id: Int32
    var previous: Int32
    var next: Int32
  }

  /// A possible merge of the symbol at `place` with the next one, ordered by rank, then from left to right.
  private struct Candidate: Comparable {
    private let order: UInt64

    init(rank: Int32, place: Int32) {
      order = UInt64(UInt32(bitPattern: rank)) << 32 | UInt64(UInt32(bitPattern: place))
    }

    var rank: Int32 { Int32(truncatingIfNeeded: order >> 32) }
    var place: Int32 { Int32(truncatingIfNeeded: order) }

    static func < (left: Self, right: Self) -> Bool { left.order < right.order }
  }

  private var symbols: [Symbol] = []
  private var candidates = Heap<Candidate>()

  private static let gone: Int32 = -1
  private static let none: Int32 = -1
  /// Words with at least this many symbols are cut if that does not change the result.
  private static let cutLength = 32
  private static let maximumLength = 1 << 26

  mutating func append(_ id: Int32, _ rules: MergeRules, into ids: inout [Int32]) throws {
    if symbols.count >= Self.cutLength, rules.canCut(between: symbols[symbols.count - 1].id, and: id) {
      finish(rules, into: &ids)
    }
    guard symbols.count < Self.maximumLength else {
      throw EspalierError.badInput(
        "The tokenizer treats the whole text as one word; encode it in smaller parts.")
    }
    let place = Int32(symbols.count)
    symbols.append(Symbol(id: id, previous: place - 1, next: place + 1))
  }

  /// Makes all merges, lowest rank first and from left to right within a rank, and appends the tokens to `ids`.
  mutating func finish(_ rules: MergeRules, into ids: inout [Int32]) {
    guard symbols.count > 1 else {
      if let symbol = symbols.first { ids.append(symbol.id) }
      return symbols.removeAll(keepingCapacity: true)
    }
    symbols[symbols.count - 1].next = Self.none
    for place in 0..<symbols.count - 1 { propose(Int32(place), rules) }
    while let candidate = candidates.popMin() {
      let (rank, place) = (candidate.rank, candidate.place)
      let left = symbols[Int(place)]
      // An earlier merge may have taken one of the two symbols.
      guard left.id != Self.gone, left.next != Self.none, case let right = symbols[Int(left.next)],
        case let result = rules.results[Int(rank)], rules.table[left.id, right.id]?.id == result
      else { continue }
      symbols[Int(left.next)].id = Self.gone
      symbols[Int(place)].id = result
      symbols[Int(place)].next = right.next
      if right.next != Self.none {
        symbols[Int(right.next)].previous = place
        propose(place, rules)
      }
      if left.previous != Self.none { propose(left.previous, rules) }
    }
    var place: Int32 = 0
    while place != Self.none {
      ids.append(symbols[Int(place)].id)
      place = symbols[Int(place)].next
    }
    symbols.removeAll(keepingCapacity: true)
  }

  private mutating func propose(_ place: Int32, _ rules: MergeRules) {
    let left = symbols[Int(place)]
    if let merge = rules.table[left.id, symbols[Int(left.next)].id] {
      candidates.insert(Candidate(rank: merge.rank, place: place))
    }
  }
}
