import EspalierCore

/// The tokens of a model with their ids, both ways; keys are bytes, since Swift compares strings by canonical
/// equivalence and a vocabulary does not.
struct Vocabulary: Sendable {
  private var table: ByteStringTable
  private var ids: [Int32]
  /// The numbers of the entries in the order of their ids: ids may have holes, and memory must not follow them.
  private var byID: [Int32]

  /// Reads an object of tokens and ids.
  init(_ node: JSONNode) throws {
    guard let members = node.json.object?.members else { throw node.failure("an object is expected.") }
    table = ByteStringTable(minimumCapacity: members.count)
    ids = []
    ids.reserveCapacity(members.count)
    for (token, value) in members {
      guard let id = value.tokenID, table.insert(token.utf8.span) != nil else {
        let entry = JSONNode(json: value, path: "\(node.path)[\"\(token)\"]")
        _ = try entry.id()
        throw entry.failure("the token is there twice.")
      }
      ids.append(id)
    }
    byID = Array(0..<Int32(ids.count))
    let ids = ids
    byID.sort { ids[Int($0)] < ids[Int($1)] }
    for (left, right) in zip(byID, byID.dropFirst()) where ids[Int(left)] == ids[Int(right)] {
      let id = ids[Int(left)]
      let names = [left, right].map { String(decoding: table[Int($0)], as: UTF8.self) }
      throw node.failure("the id \(id) has two tokens, \"\(names[0])\" and \"\(names[1])\".")
    }
  }

  /// Number of tokens, which is less than the largest id plus one where ids have holes.
  var count: Int { ids.count }

  var largestID: Int32? { byID.last.map { ids[Int($0)] } }

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
      if ids[Int(byID[middle])] < id { low = middle + 1 } else { high = middle }
    }
    guard low < byID.count, ids[Int(byID[low])] == id else { return nil }
    return table[Int(byID[low])]
  }
}
