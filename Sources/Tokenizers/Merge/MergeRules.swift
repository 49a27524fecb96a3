import EspalierCore

/// The merges of a byte-pair model, and tables derived from them.
struct MergeRules: Sendable {
  let table: MergeTable
  /// The merged token of each rank.
  let results: [Int32]
  /// The pairs of adjacent initial symbols that some merge can join; nil if that is unknown.
  ///
  /// Between any other two symbols a word can be cut, and the parts merge to the same tokens. So a text that is one long word needs no
  /// queue as long as itself.
  private let bridges: MergeTable?

  private struct Rule {
    let left: Int32
    let right: Int32
    let result: Int32
  }

  /// Reads `merges`, in either of its forms: `"a b"` or `["a", "b"]`.
  init(_ node: JSONNode, vocabulary: Vocabulary, prefix: [UInt8], canBeInitial: ((Int32) -> Bool)?) throws {
    guard let elements = node.json.array else { throw node.failure("an array is expected.") }
    let areStrings = elements.first?.string != nil
    var rules: [Rule] = []
    rules.reserveCapacity(elements.count)
    for (index, element) in elements.enumerated() {
      if areStrings, element.string?.hasPrefix("#version") == true { continue }
      guard let (left, right) = Self.parts(of: element, areStrings: areStrings) else {
        throw JSONNode(json: element, path: "\(node.path)[\(index)]")
          .failure(
            "two tokens are expected, \(areStrings ? "separated by one space" : "as an array of strings").")
      }
      let result = left + right.dropFirst(prefix.count)
      let ids = try [left, right, result].map { token in
        guard let id = vocabulary.id(of: token.span) else {
          let name = String(decoding: token, as: UTF8.self)
          throw JSONNode(json: element, path: "\(node.path)[\(index)]")
            .failure("the token \"\(name)\" is not in the vocabulary.")
        }
        return id
      }
      rules.append(Rule(left: ids[0], right: ids[1], result: ids[2]))
    }
    var table = MergeTable(capacity: rules.count)
    for (rank, rule) in rules.enumerated() {
      table.set(rule.left, rule.right, MergeTable.Merge(rank: Int32(clamping: rank), id: rule.result))
    }
    self.table = table
    results = rules.map(\.result)
    bridges = canBeInitial.flatMap { Self.bridges(rules, vocabulary: vocabulary, canBeInitial: $0) }
  }

  /// Whether a word can be cut between two adjacent initial symbols.
  func canCut(between left: Int32, and right: Int32) -> Bool {
    guard let bridges else { return false }
    return bridges[left, right] == nil
  }

  private static func parts(of element: JSON, areStrings: Bool) -> (ArraySlice<UInt8>, ArraySlice<UInt8>)? {
    if areStrings {
      guard let bytes = element.string.map({ Array($0.utf8) }) else { return nil }
      let parts = bytes.split(separator: 0x20, omittingEmptySubsequences: false)
      return parts.count == 2 ? (parts[0], parts[1]) : nil
    }
    guard let pair = element.array, pair.count == 2, let left = pair[0].string, let right = pair[1].string
    else {
      return nil
    }
    return (ArraySlice(left.utf8), ArraySlice(right.utf8))
  }

  /// For each merge, the last initial symbol of its left part and the first of its right part.
  private static func bridges(
    _ rules: [Rule], vocabulary: Vocabulary, canBeInitial: (Int32) -> Bool
  ) -> MergeTable? {
    guard let largest = vocabulary.largestID, Int(largest) < vocabulary.count * 4 + 1024 else { return nil }
    let unknown: Int32 = -1
    var firsts = Array(0...largest)
    var lasts = firsts
    for rule in rules {
      if canBeInitial(rule.result) { return nil }
      firsts[Int(rule.result)] = unknown
      lasts[Int(rule.result)] = unknown
    }
    // Training writes a rule after the rules that make its parts, so one pass is enough, and one more to confirm it.
    for pass in 0... {
      var changed = false
      for rule in rules {
        let first = firsts[Int(rule.left)]
        let last = lasts[Int(rule.right)]
        guard first != unknown, last != unknown else { continue }
        let there = firsts[Int(rule.result)]
        if there == unknown {
          firsts[Int(rule.result)] = first
          lasts[Int(rule.result)] = last
          changed = true
        } else if there != first || lasts[Int(rule.result)] != last {
          return nil
        }
      }
      if !changed { break }
      if pass == 4 { return nil }
    }
    var bridges = MergeTable(capacity: rules.count)
    for rule in rules {
      let left = lasts[Int(rule.left)]
      let right = firsts[Int(rule.right)]
      if left != unknown, right != unknown { bridges.set(left, right, MergeTable.Merge(rank: 0, id: 0)) }
    }
    return bridges
  }
}
