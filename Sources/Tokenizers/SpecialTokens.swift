import EspalierCore

/// The special and added tokens that the files of a tokenizer in parts name, in the order in which `transformers` adds
/// them.
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
    let map = parts.node(parts.specialTokens, "special_tokens_map.json")
    // Where the settings number the tokens, the older files do not count.
    let isNumbered = settings.optional("added_tokens_decoder") != nil
    /// The member of the later file that has it; nil where it is absent, `.null` where it is null.
    func member(_ key: String) -> JSONNode? {
      for node in isNumbered ? [settings] : [map, settings] {
        if let value = node.json.object?[key] { return JSONNode(json: value, path: "\(node.path): \(key)") }
      }
      return nil
    }
    if let list = settings.optional("added_tokens_decoder") {
      numbered = try Self.numbered(list)
    }
    let others = (settings.json.object?.members ?? []) + (isNumbered ? [] : map.json.object?.members ?? [])
    var roles = Self.roles
    for (key, value) in others where key.hasSuffix("_token") && !roles.contains(key) {
      if value.string != nil || value.object != nil { roles.append(key) }
    }
    for role in roles {
      guard let node = member(role) else {
        if let content = defaults[role] { named.append((role, Token(content: content))) }
        continue
      }
      guard !node.json.isNull else { continue }
      var token = try Self.token(node, special: true)
      if let known = numbered.first(where: { Self.equal($0.content, token.content) }) { token = known }
      named.append((role, token))
    }
    let extra = member("extra_special_tokens") ?? member("additional_special_tokens")
    if let extra, !extra.json.isNull {
      if let members = extra.json.object?.members {
        for (key, value) in members {
          named.append((key, try Self.token(JSONNode(json: value, path: extra.path), special: true)))
        }
      } else {
        further = try extra.elements().map { try Self.token($0, special: true) }
      }
    }
    if !isNumbered, let added = parts.addedTokens {
      // A token is special only if a file says so; what the family has by default comes later.
      let special =
        named.filter { member($0.role) != nil }.map(\.token.content)
        + (member("extra_special_tokens") == nil ? [] : further.map(\.content))
      numbered = try Self.legacy(JSONNode(json: added, path: "added_tokens.json"), special: special)
    }
  }

  /// The token with this role, if there is one.
  func name(_ role: String) -> String? { named.first { $0.role == role }?.token.content }

  /// The array `added_tokens`. A token that the vocabulary lacks gets the next id.
  func added(to vocabulary: JSONNode) throws -> [JSON] {
    guard let members = vocabulary.json.object?.members else {
      throw vocabulary.failure("an object is expected.")
    }
    var known = ByteStringTable(minimumCapacity: members.count)
    for member in members { known.insert(member.key.utf8.span) }
    var seen = ByteStringTable()
    var next = members.count
    let names = named.map(\.token)
    return (numbered + names + further).compactMap { token in
      guard seen.insert(token.content.utf8.span) != nil else { return nil }
      var id = next
      if let place = known.find(token.content.utf8.span), let there = members[place].value.integer {
        id = there
      } else {
        next += 1
      }
      let special = token.special || names.contains { Self.equal($0.content, token.content) }
      return [
        "id": .integer(id), "content": .string(token.content), "single_word": .bool(token.singleWord),
        "lstrip": .bool(token.stripsLeft), "rstrip": .bool(token.stripsRight),
        "normalized": .bool(token.normalized ?? !token.special), "special": .bool(special),
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
  private static func legacy(_ node: JSONNode, special: [String]) throws -> [Token] {
    guard let members = node.json.object?.members else { throw node.failure("an object is expected.") }
    return try members.map { content, value in
      let id = try JSONNode(json: value, path: "\(node.path)[\"\(content)\"]").id()
      return (id, Token(content: content, special: special.contains { equal($0, content) }))
    }
    .sorted { $0.0 < $1.0 }.map(\.1)
  }

  /// Strings of Swift are equal where they are canonically equivalent; tokens are not.
  private static func equal(_ left: String, _ right: String) -> Bool { left.utf8.elementsEqual(right.utf8) }
}
