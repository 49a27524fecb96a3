import EspalierCore

/// WordPiece: takes the longest token at the start of a word, then at the start of the rest, and so on.
struct WordPieceModel: Sendable {
  let vocabulary: Vocabulary
  private let trie: TokenTrie
  /// The node of the trie that holds the tokens that continue a word.
  private let continuation: Int32
  private let unknownToken: String
  private let unknown: Int32?
  /// Words with more characters are unknown.
  private let maximumCharacters: Int

  /// Memory that one call of `encode` reuses from word to word.
  struct Scratch {
    fileprivate var cache = WordCache()
  }

  init(_ node: JSONNode) throws {
    let vocabularyNode = try node.required("vocab")
    vocabulary = try Vocabulary(vocabularyNode)
    trie = try vocabulary.trie(vocabularyNode)
    continuation = trie.node(of: try node.required("continuing_subword_prefix").content())
    unknownToken = try node.required("unk_token").string()
    unknown = vocabulary.id(of: unknownToken.utf8.span)
    maximumCharacters = Int(try node.required("max_input_chars_per_word").id())
  }

  func encode(_ word: Span<UInt8>, _ scratch: inout Scratch, into ids: inout [Int32]) throws {
    if let known = scratch.cache[word] { return ids.append(contentsOf: known) }
    let first = ids.count
    if characters(of: word) > maximumCharacters || !split(word, into: &ids) {
      ids.removeLast(ids.count - first)
      guard let unknown else {
        throw EspalierError.badInput(
          "model.unk_token: a word is not in the vocabulary, and neither is its replacement \"\(unknownToken)\"."
        )
      }
      ids.append(unknown)
    }
    scratch.cache.insert(word, ids[first...])
  }

  /// Splits a word into tokens; false if that is not possible.
  private func split(_ word: Span<UInt8>, into ids: inout [Int32]) -> Bool {
    var start = 0
    while start < word.count {
      var node = start == 0 ? TokenTrie.root : continuation
      var end = start
      var best: (token: Int32, end: Int)?
      while node != TokenTrie.none, end < word.count {
        node = trie.child(of: node, word[end])
        end += 1
        if node != TokenTrie.none, case let token = trie.token(at: node), token != TokenTrie.none {
          best = (token, end)
        }
      }
      guard let best else { return false }
      ids.append(best.token)
      start = best.end
    }
    return true
  }

  /// Number of characters, or of bytes if those are few enough.
  private func characters(of word: Span<UInt8>) -> Int {
    guard word.count > maximumCharacters else { return word.count }
    var count = 0
    for index in word.indices where word[index] & 0xC0 != 0x80 { count += 1 }
    return count
  }
}
