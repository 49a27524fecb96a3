import EspalierCore

/// The model that turns words into tokens.
enum Model: Sendable {
  case bytePair(BytePairModel)
  case unigram(UnigramModel)
  case wordLevel(WordLevelModel)
  case wordPiece(WordPieceModel)

  /// Memory that one call of `encode` reuses from word to word.
  struct Scratch {
    fileprivate var bytePair = BytePairModel.Scratch()
    fileprivate var unigram = UnigramModel.Scratch()
    fileprivate var wordPiece = WordPieceModel.Scratch()
  }

  init(_ node: JSONNode) throws {
    switch try node.optional("type")?.string() ?? Self.unnamedType(node) {
    case "BPE": self = .bytePair(try BytePairModel(node))
    case "Unigram": self = .unigram(try UnigramModel(node))
    case "WordLevel": self = .wordLevel(try WordLevelModel(node))
    case "WordPiece": self = .wordPiece(try WordPieceModel(node))
    case let type?: throw node.unsupported("model", type)
    case nil: throw node.failure("the member \"type\" is missing.")
    }
  }

  /// The oldest files do not name the type; it follows from members that only one type has.
  private static func unnamedType(_ node: JSONNode) -> String? {
    if node.optional("merges") != nil { return "BPE" }
    if node.optional("max_input_chars_per_word") != nil { return "WordPiece" }
    return node.optional("vocab")?.json.array == nil ? nil : "Unigram"
  }

  var vocabulary: Vocabulary {
    switch self {
    case .bytePair(let model): model.vocabulary
    case .unigram(let model): model.vocabulary
    case .wordLevel(let model): model.vocabulary
    case .wordPiece(let model): model.vocabulary
    }
  }

  func encode(_ word: Span<UInt8>, _ scratch: inout Scratch, into ids: inout [Int32]) throws {
    switch self {
    case .bytePair(let model): try model.encode(word, &scratch.bytePair, into: &ids)
    case .unigram(let model): try model.encode(word, &scratch.unigram, into: &ids)
    case .wordLevel(let model): try model.encode(word, into: &ids)
    case .wordPiece(let model): try model.encode(word, &scratch.wordPiece, into: &ids)
    }
  }
}
