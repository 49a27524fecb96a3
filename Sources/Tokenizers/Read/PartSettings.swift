import EspalierCore

/// The settings of a tokenizer without `tokenizer.json`, with the ids of its special tokens.
struct PartSettings {
  /// `tokenizer_config.json`.
  let node: JSONNode
  let names: SpecialTokens
  /// The array `added_tokens`.
  let tokens: [JSON]

  func flag(_ key: String) throws -> Bool? { try node.optional(key)?.bool() }

  /// The token with this role.
  func name(_ role: String) throws -> String {
    guard let name = names.name(role) else {
      throw node.failure("\(role) is null, but this tokenizer needs it.")
    }
    return name
  }

  /// A token and its id, in the form of BERT's and RoBERTa's post-processors.
  func pair(_ role: String) throws -> JSON {
    let name = try name(role)
    return [.string(name), id(of: name)]
  }

  /// A post-processor that adds these tokens around the text.
  func template(before: String?, after: String?) throws -> JSON {
    func special(_ name: String?) -> [JSON] {
      name.map { [["SpecialToken": ["id": .string($0), "type_id": 0]]] } ?? []
    }
    func sequence(_ name: String) -> [JSON] { [["Sequence": ["id": .string(name), "type_id": 0]]] }
    var ids: [(key: String, value: JSON)] = []
    for name in [before, after].compactMap({ $0 }) where !ids.contains(where: { $0.key == name }) {
      ids.append((name, ["id": .string(name), "ids": [id(of: name)], "tokens": [.string(name)]]))
    }
    let single = special(before) + sequence("A") + special(after)
    return [
      "type": "TemplateProcessing", "single": .array(single),
      "pair": .array(single + sequence("B") + special(after)),
      "special_tokens": .object(JSONObject(ids)),
    ]
  }

  /// The id of a special token, all of which are added tokens.
  private func id(of name: String) -> JSON {
    tokens.first { $0["content"]?.string?.utf8.elementsEqual(name.utf8) == true }?["id"] ?? .null
  }
}
