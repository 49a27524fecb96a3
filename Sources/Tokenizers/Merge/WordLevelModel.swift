import EspalierCore

/// WordLevel: a model of whole words.
struct WordLevelModel: Sendable {
  let vocabulary: Vocabulary
  private let unknownToken: String
  private let unknown: Int32?

  init(_ node: JSONNode) throws {
    vocabulary = try Vocabulary(try node.required("vocab"))
    unknownToken = try node.required("unk_token").string()
    unknown = vocabulary.id(of: unknownToken.utf8.span)
  }

  func encode(_ word: Span<UInt8>, into ids: inout [Int32]) throws {
    guard let id = vocabulary.id(of: word) ?? unknown else {
      throw EspalierError.badInput(
        "model.unk_token: a word is not in the vocabulary, and neither is its replacement \"\(unknownToken)\"."
      )
    }
    ids.append(id)
  }
}
