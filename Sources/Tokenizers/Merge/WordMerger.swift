import EspalierCore

/// Merges one word: its initial symbols are appended, then it is finished.
struct WordMerger {
  /// A part of the word: its token, or `gone` where its left neighbour has taken it, and its neighbours' places.
  private struct Symbol {
    var id: Int32
    var previous: Int32
    var next: Int32
  }

  private var symbols: [Symbol] = []
  private var queue = MergeQueue()

  private static let gone: Int32 = -1
  private static let none: Int32 = -1
  /// A word is cut, where that changes nothing, when it has this many symbols.
  private static let cutLength = 32
  private static let maximumLength = 1 << 26

  mutating func append(_ id: Int32, _ rules: MergeRules, into ids: inout [Int32]) throws {
    if symbols.count >= Self.cutLength, rules.canCut(between: symbols[symbols.count - 1].id, and: id) {
      finish(rules, into: &ids)
    }
    guard symbols.count < Self.maximumLength else {
      throw EspalierError.badInput(
        "The tokenizer takes the whole text for one word; encode it in smaller parts.")
    }
    let place = Int32(symbols.count)
    symbols.append(Symbol(id: id, previous: place - 1, next: place + 1))
  }

  /// Makes every merge, the one of lowest rank first, of equal ranks the leftmost, and hands on the tokens.
  mutating func finish(_ rules: MergeRules, into ids: inout [Int32]) {
    guard symbols.count > 1 else {
      if let symbol = symbols.first { ids.append(symbol.id) }
      return symbols.removeAll(keepingCapacity: true)
    }
    symbols[symbols.count - 1].next = Self.none
    for place in 0..<symbols.count - 1 { propose(Int32(place), rules) }
    while let (rank, place) = queue.pop() {
      let left = symbols[Int(place)]
      // What was possible when it came into the queue may have been overtaken by a merge of lower rank.
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
      queue.push(rank: merge.rank, place: place)
    }
  }
}
