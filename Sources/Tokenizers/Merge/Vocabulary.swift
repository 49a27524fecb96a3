import EspalierCore

/// Maps the tokens of a model to ids and back. Keys are bytes, since Swift compares strings by canonical equivalence and a vocabulary
/// does not.
struct Vocabulary: Sendable {
  private var table: ByteStringTable
  /// The id of each entry of the table.
  private var ids: [Int32] = []
  /// All ids with their entries, sorted by id. Ids may have gaps, which must not cost memory.
  private var byID: [(id: Int32, entry: Int32)] = []

  /// Reads an object of tokens and ids.
  init(_ node: JSONNode) throws {
    guard let members = node.json.object?.members else { throw node.failure("an object is expected.") }
    table = ByteStringTable(minimumCapacity: members.count)
    ids.reserveCapacity(members.count)
    byID.reserveCapacity(members.count)
    for (token, value) in members {
      guard let id = value.tokenID, let entry = table.insert(token.utf8.span) else {
        let entry = JSONNode(json: value, path: "\(node.path)[\"\(token)\"]")
        _ = try entry.id()
        throw entry.failure("the token occurs twice.")
      }
      ids.append(id)
      byID.append((id, Int32(entry)))
    }
    byID.sort { $0.id < $1.id }
    for (left, right) in zip(byID, byID.dropFirst()) where left.id == right.id {
      let names = [left, right].map { String(decoding: table[Int($0.entry)], as: UTF8.self) }
      throw node.failure("the id \(left.id) has two tokens, \"\(names[0])\" and \"\(names[1])\".")
    }
  }

  /// Tokens whose ids are their positions. As in the reference, the last one wins if tokens are equal.
  init(inOrder tokens: [String]) {
    table = ByteStringTable(minimumCapacity: tokens.count)
    for (token, id) in zip(tokens, Int32(0)...) {
      if let entry = table.insert(token.utf8.span) ?? table.find(token.utf8.span) {
        if entry == ids.count { ids.append(id) } else { ids[entry] = id }
        byID.append((id, Int32(entry)))
      }
    }
  }

  /// Number of ids; less than the largest id plus one if ids have gaps.
  var count: Int { byID.count }

  var largestID: Int32? { byID.last?.id }

  func id(of token: Span<UInt8>) -> Int32? { table.find(token).map { ids[$0] } }

  func id(of token: [UInt8]) -> Int32? { id(of: token.span) }

  /// Whether the token is a single character.
  func isOneCharacter(_ id: Int32) -> Bool {
    token(id).map { $0.first.map(UTF8.width(ofLead:)) == $0.count } ?? false
  }

  func token(_ id: Int32) -> ArraySlice<UInt8>? {
    var low = 0
    var high = byID.count
    while low < high {
      let middle = (low + high) / 2
      if byID[middle].id < id { low = middle + 1 } else { high = middle }
    }
    guard low < byID.count, byID[low].id == id else { return nil }
    return table[Int(byID[low].entry)]
  }

  /// The tokens `<0x00>` to `<0xFF>`, which represent the bytes of characters missing from the vocabulary.
  func byteTokens() -> [Int32?] {
    let digits = Array("0123456789ABCDEF".utf8)
    return (0..<256).map {
      id(of: Array("<0x".utf8) + [digits[$0 >> 4], digits[$0 & 15], UInt8(ascii: ">")])
    }
  }

  /// A tree of all tokens.
  func trie(_ node: JSONNode) throws -> TokenTrie {
    var trie = TokenTrie()
    for (entry, id) in ids.enumerated() where !trie.insert(table[entry], id: id) {
      throw node.failure("the tokens are too many or too long.")
    }
    return trie
  }
}
