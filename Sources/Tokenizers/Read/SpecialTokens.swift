import EspalierCore

/// The special and added tokens in the files of a tokenizer without `tokenizer.json`, in the order in which `transformers` adds them.
struct SpecialTokens: Sendable {
  /// The tokens with a role, such as `bos_token`.
  private var named: [(role: String, token: Token)] = []
  private var numbered: [Token] = []
  private var further: [Token] = []

  private struct Token: Sendable {
    var content: String
    var special = true
    var normalized: Bool?
    var stripsLeft = false
    var stripsRight = false
    var singleWord = false
  }

  private static let roles = [
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
  ]

  init(_ parts: TokenizerParts, defaults: [String: String]) throws {
    let settings = parts.node(parts.settings, "tokenizer_config.json")
    let list = settings.optional("added_tokens_decoder")
    var members = Members()
    members.insert(settings)
    // If the settings give ids for the tokens, the older files are ignored.
    if list == nil { members.insert(parts.node(parts.specialTokens, "special_tokens_map.json")) }
    numbered = try list.map(Self.numbered) ?? []
    var places = ByteStringTable(minimumCapacity: numbered.count)
    // If a token has two ids, the later one wins.
    let tokens = numbered.reversed().filter { places.insert($0.content.utf8.span) != nil }

    let others = members.nodes.filter { $0.json.string != nil || $0.json.object != nil }.map(\.key)
    for role in Self.roles + others.filter({ $0.hasSuffix("_token") && !Self.roles.contains($0) }) {
      guard let node = members[role] else {
        if let content = defaults[role] { named.append((role, Token(content: content))) }
        continue
      }
      guard !node.json.isNull else { continue }
      let token = try Self.token(node, special: true)
      named.append((role, places.find(token.content.utf8.span).map { tokens[$0] } ?? token))
    }
    let extra = members["extra_special_tokens"] ?? members["additional_special_tokens"]
    if let object = extra?.json.object {
      for (key, value) in object.members {
        named.append((key, try Self.token(JSONNode(json: value, path: extra?.path ?? ""), special: true)))
      }
    } else if let extra, !extra.json.isNull {
      further = try extra.elements().map { try Self.token($0, special: true) }
    }
    guard list == nil, let added = parts.addedTokens else { return }
    // A token is special only if a file says so; the family's defaults are added later.
    var special = ByteStringTable()
    for (role, token) in named where members[role] != nil { special.insert(token.content.utf8.span) }
    if members["extra_special_tokens"] != nil {
      for token in further { special.insert(token.content.utf8.span) }
    }
    numbered = try Self.legacy(JSONNode(json: added, path: "added_tokens.json"), special)
  }

  /// The token with this role, if there is one.
  func name(_ role: String) -> String? { named.first { $0.role == role }?.token.content }

  /// The array `added_tokens`. A token missing from the vocabulary gets the next id.
  func added(to vocabulary: JSONNode) throws -> [JSON] {
    guard let members = vocabulary.json.object?.members else {
      throw vocabulary.failure("an object is expected.")
    }
    var known = ByteStringTable(minimumCapacity: members.count)
    for member in members { known.insert(member.key.utf8.span) }
    var seen = ByteStringTable()
    var next = members.count
    let names = named.map(\.token)
    var special = ByteStringTable()
    for token in names { special.insert(token.content.utf8.span) }
    return (numbered + names + further).compactMap { token in
      guard seen.insert(token.content.utf8.span) != nil else { return nil }
      var id = next
      if let place = known.find(token.content.utf8.span), let there = members[place].value.integer {
        id = there
      } else {
        next += 1
      }
      let isSpecial = token.special || special.find(token.content.utf8.span) != nil
      return [
        "id": .integer(id), "content": .string(token.content), "single_word": .bool(token.singleWord),
        "lstrip": .bool(token.stripsLeft), "rstrip": .bool(token.stripsRight),
        "normalized": .bool(token.normalized ?? !token.special), "special": .bool(isSpecial),
      ]
    }
  }

  /// Reads a string, or an object with `content` and options.
  private static func token(_ node: JSONNode, special: Bool) throws -> Token {
    if let content = node.json.string { return Token(content: content) }
    return Token(
      content: try node.required("content").string(),
      special: try special || node.optional("special")?.bool() ?? false,
      normalized: try node.optional("normalized")?.bool(),
      stripsLeft: try node.optional("lstrip")?.bool() ?? false,
      stripsRight: try node.optional("rstrip")?.bool() ?? false,
      singleWord: try node.optional("single_word")?.bool() ?? false)
  }

  /// Reads `added_tokens_decoder`, an object of ids and tokens.
  private static func numbered(_ node: JSONNode) throws -> [Token] {
    guard let members = node.json.object?.members else { throw node.failure("an object is expected.") }
    return try members.map { key, value in
      guard let id = Int(key) else { throw node.failure("\"\(key)\" is not a token id.") }
      return (id, try token(JSONNode(json: value, path: "\(node.path)[\"\(key)\"]"), special: false))
    }
    .sorted { $0.0 < $1.0 }.map(\.1)
  }

  /// Reads `added_tokens.json`, an object of tokens and ids.
  private static func legacy(_ node: JSONNode, _ special: ByteStringTable) throws -> [Token] {
    guard let members = node.json.object?.members else { throw node.failure("an object is expected.") }
    return try members.map { content, value in
      let id = try JSONNode(json: value, path: "\(node.path)[\"\(content)\"]").id()
      return (id, Token(content: content, special: special.find(content.utf8.span) != nil))
    }
    .sorted { $0.0 < $1.0 }.map(\.1)
  }
}

/// The members of several objects by key; later ones replace earlier ones.
private struct Members {
  private var keys = ByteStringTable()
  private(set) var nodes: [(key: String, json: JSON, path: String)] = []

  mutating func insert(_ node: JSONNode) {
    for (key, value) in node.json.object?.members ?? [] {
      let member = (key, value, "\(node.path): \(key)")
      if keys.insert(key.utf8.span) != nil {
        nodes.append(member)
      } else if let place = keys.find(key.utf8.span) {
        nodes[place] = member
      }
    }
  }

  subscript(key: String) -> JSONNode? {
    keys.find(key.utf8.span).map { JSONNode(json: nodes[$0].json, path: nodes[$0].path) }
  }
}
