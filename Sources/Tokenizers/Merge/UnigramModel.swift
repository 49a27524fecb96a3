import EspalierCore

/// Unigram: of all ways to split a word into tokens, takes the one with the largest sum of scores.
struct UnigramModel: Sendable {
  let vocabulary: Vocabulary
  private let trie: TokenTrie
  /// The score of each token, a log-probability.
  private let scores: [Double]
  private let unknown: Int32?
  private let unknownScore: Double
  private let byteTokens: [Int32?]?

  /// Memory that one call of `encode` reuses from word to word.
  struct Scratch {
    fileprivate var cache = WordCache()
    fileprivate var path: [Node] = []
    fileprivate var pieces: [Piece] = []
  }

  /// The best path to a position of the word: the last token and its start.
  fileprivate struct Node {
    var score: Double
    var start: Int32
    var token: Int32
  }

  fileprivate struct Piece {
    let token: Int32
    let range: Range<Int>
  }

  /// How much lower an unknown character scores than the worst token.
  private static let unknownPenalty = 10.0
  private static let unreached: Int32 = -1
  private static let maximumLength = 1 << 26

  init(_ node: JSONNode) throws {
    let list = try node.required("vocab")
    let pairs = try list.elements()
    var tokens: [String] = []
    var scores: [Double] = []
    for pair in pairs {
      guard let parts = pair.json.array, parts.count == 2, let token = parts[0].string,
        let score = parts[1].double
      else { throw pair.failure("a token and its score are expected.") }
      tokens.append(token)
      scores.append(score)
    }
    unknown = try node.optional("unk_id")?.id()
    if let unknown, unknown >= tokens.count {
      throw node.failure("unk_id is \(unknown), but there are only \(tokens.count) tokens.")
    }
    vocabulary = Vocabulary(inOrder: tokens)
    trie = try vocabulary.trie(list)
    unknownScore = (scores.min() ?? .infinity) - Self.unknownPenalty
    self.scores = scores
    byteTokens = try node.optional("byte_fallback")?.bool() == true ? vocabulary.byteTokens() : nil
  }

  func encode(_ word: Span<UInt8>, _ scratch: inout Scratch, into ids: inout [Int32]) throws {
    if let known = scratch.cache[word] { return ids.append(contentsOf: known) }
    let first = ids.count
    // The path begins at `base`; the tokens before that are already in `ids`.
    var base = 0
    var path = scratch.path
    scratch.path = []
    path.removeAll(keepingCapacity: true)
    path.append(Node(score: 0, start: Self.unreached, token: Self.unreached))
    var place = 0
    while place < word.count {
      // If no token extends beyond this position, the path to it is final. A run of unknown characters must stay whole.
      if place - base == path.count - 1, place > base, path[place - base].token != unknown {
        take(path, of: word, from: base, &scratch.pieces, into: &ids)
        path[0].score = path[place - base].score
        path.removeLast(path.count - 1)
        base = place
      }
      try extend(&path, over: word, base: base, at: place)
      place += UTF8.width(ofLead: word[place])
    }
    take(path, of: word, from: base, &scratch.pieces, into: &ids)
    scratch.path = path
    scratch.cache.insert(word, ids[first...])
  }

  /// Tries all tokens that begin at a position. As in the reference, the first one found wins a tie.
  private func extend(
    _ path: inout [Node], over word: Span<UInt8>, base: Int, at place: Int
  ) throws {
    let width = UTF8.width(ofLead: word[place])
    let start = place - base
    let score = path[start].score
    guard start < Self.maximumLength else {
      throw EspalierError.badInput(
        "The tokenizer treats the whole text as one word; encode it in smaller parts.")
    }
    func offer(_ token: Int32, _ total: Double, end: Int) {
      while path.count <= end {
        path.append(Node(score: 0, start: Self.unreached, token: Self.unreached))
      }
      if path[end].start == Self.unreached || total > path[end].score {
        path[end] = Node(score: total, start: Int32(truncatingIfNeeded: start), token: token)
      }
    }
    var isKnown = false
    var node = TokenTrie.root
    var end = place
    while end < word.count {
      node = trie.child(of: node, word[end])
      if node == TokenTrie.none { break }
      end += 1
      let token = trie.token(at: node)
      if token == TokenTrie.none { continue }
      offer(token, scores[Int(token)] + score, end: end - base)
      if end - place == width { isKnown = true }
    }
    if isKnown { return }
    end = start + width
    guard let unknown else {
      guard end < path.count, path[end].start != Self.unreached, unknownScore + score <= path[end].score
      else {
        throw EspalierError.badInput(
          "model.unk_id: a character is not in the vocabulary, and there is no token for unknown ones.")
      }
      return
    }
    offer(unknown, unknownScore + score, end: end)
  }

  /// Follows the path back to its start, and appends its tokens in order.
  private func take(
    _ path: [Node], of word: Span<UInt8>, from base: Int, _ pieces: inout [Piece], into ids: inout [Int32]
  ) {
    pieces.removeAll(keepingCapacity: true)
    var end = path.count - 1
    while end > 0 {
      let node = path[end]
      let start = Int(node.start)
      // A run of unknown characters becomes one piece.
      if let last = pieces.last, node.token == unknown, last.token == unknown {
        pieces[pieces.count - 1] = Piece(token: node.token, range: base + start..<last.range.upperBound)
      } else {
        pieces.append(Piece(token: node.token, range: base + start..<base + end))
      }
      end = start
    }
    for piece in pieces.reversed() {
      if piece.token == unknown {
        appendUnknown(word.extracting(piece.range), else: piece.token, into: &ids)
      } else {
        ids.append(piece.token)
      }
    }
  }

  /// A run of unknown characters may be a token that scored lower than its parts, or its bytes may be tokens.
  private func appendUnknown(_ piece: Span<UInt8>, else unknown: Int32, into ids: inout [Int32]) {
    if let id = vocabulary.id(of: piece) { return ids.append(id) }
    guard let byteTokens, piece.indices.allSatisfy({ byteTokens[Int(piece[$0])] != nil }) else {
      return ids.append(unknown)
    }
    for index in piece.indices {
      if let id = byteTokens[Int(piece[index])] { ids.append(id) }
    }
  }
}
