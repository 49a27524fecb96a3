import EspalierCore

/// A model that takes the longest token at the beginning of a word, then again at the beginning of the rest.
struct WordPieceModel: Sendable {
  let vocabulary: Vocabulary
  private let trie: TokenTrie
  /// The node of the trie below which the tokens lie that continue a word.
  private let continuation: Int32
  private let unknownToken: String
  private let unknown: Int32?
  /// A word of more characters than that is unknown.
  private let maximumCharacters: Int

  /// What one call of `encode` keeps from word to word.
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
          "model.unk_token: a word is not in the vocabulary, and neither is \"\(unknownToken)\", which would stand for it."
        )
      }
      ids.append(unknown)
    }
    scratch.cache.insert(word, ids[first...])
  }

  /// Writes a word in tokens; false where it cannot be written.
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

  /// Number of characters, as far as it matters.
  private func characters(of word: Span<UInt8>) -> Int {
    guard word.count > maximumCharacters else { return word.count }
    var count = 0
    for index in word.indices where word[index] & 0xC0 != 0x80 { count += 1 }
    return count
  }
}
