import EspalierCore

/// What turns words into tokens.
enum Model: Sendable {
  case bytePair(BytePairModel)
  case wordLevel(WordLevelModel)

  init(_ node: JSONNode) throws {
    // The oldest files do not name the type; only a byte-pair model has merges.
    let type = try node.optional("type")?.string() ?? (node.optional("merges") == nil ? nil : "BPE")
    switch type {
    case "BPE": self = .bytePair(try BytePairModel(node))
    case "WordLevel": self = .wordLevel(try WordLevelModel(node))
    case let type?: throw node.unsupported("model", type)
    case nil: throw node.failure("the member \"type\" is missing.")
    }
  }

  var vocabulary: Vocabulary {
    switch self {
    case .bytePair(let model): model.vocabulary
    case .wordLevel(let model): model.vocabulary
    }
  }
}
