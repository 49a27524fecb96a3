import EspalierCore

/// A token that is matched in the text itself, before the model sees it.
struct AddedToken: Equatable, Sendable {
  let content: [UInt8]
  /// Whether it matches only if no word character is on either side.
  let singleWord: Bool
  /// Whether the match includes white space before or after it.
  let stripsLeft: Bool
  let stripsRight: Bool
  /// Whether its normalized form is matched in the normalized text.
  let normalized: Bool
  /// Whether decoding can skip it.
  let special: Bool

  init(_ node: JSONNode) throws {
    content = try node.required("content").content()
    singleWord = try node.required("single_word").bool()
    stripsLeft = try node.required("lstrip").bool()
    stripsRight = try node.required("rstrip").bool()
    normalized = try node.required("normalized").bool()
    special = try node.required("special").bool()
    _ = try node.required("id").id()
  }
}

/// The tokens in addition to the model's vocabulary.
struct AddedTokens: Sendable {
  private let tokens: [Int32: AddedToken]
  private let ids: [[UInt8]: Int32]
  /// The normalized form of the tokens that normalization changes.
  private let normalizedForms: [Int32: [UInt8]]
  private var special: Set<[UInt8]> = []
  private let verbatim: TokenMatcher
  private let normalized: TokenMatcher

  /// A part of a text: ordinary bytes, or an added token.
  enum Part {
    case text(Range<Int>)
    case token(Int32)
  }

  /// Which tokens to search for.
  enum Search {
    case verbatim, normalized
  }

  /// Reads the array `added_tokens`.
  ///
  /// As in the reference, a token gets the id of its content in the vocabulary, otherwise the next free one after the vocabulary's
  /// token count; the ids in the file are ignored.
  init(_ node: JSONNode?, model: Model, normalizers: [Normalizer]) throws {
    var nextID = Int32(clamping: model.vocabulary.count)
    var tokens: [Int32: AddedToken] = [:]
    var ids: [[UInt8]: Int32] = [:]
    var forms: [Int32: [UInt8]] = [:]
    for element in try node?.elements() ?? [] {
      let token = try AddedToken(element)
      let known = ids[token.content]
      if token.content.isEmpty || known.flatMap({ tokens[$0] }) == token { continue }
      var id = nextID
      if let there = known ?? model.vocabulary.id(of: token.content) { id = there } else { nextID += 1 }
      if token.normalized {
        var form = NormalizedText(bytes: token.content, head: 0)
        try Normalizer.apply(normalizers, to: &form)
        // The reference would match it everywhere, and fail at the first non-ASCII character.
        guard !form.bytes.isEmpty else { throw element.failure("normalization removes the whole token.") }
        if form.bytes != token.content { forms[id] = form.bytes }
      }
      ids[token.content] = id
      tokens[id] = token
      if token.special { special.insert(token.content) }
    }
    verbatim = TokenMatcher(tokens.filter { !$1.normalized }.map { ($1.content, $0) })
    normalized = TokenMatcher(tokens.filter { $1.normalized }.map { (forms[$0] ?? $1.content, $0) })
    self.tokens = tokens
    self.ids = ids
    normalizedForms = forms
  }

  var largestID: Int32? { tokens.keys.max() }

  func id(of token: [UInt8]) -> Int32? { ids[token] }

  /// The token as decoding writes it, in its normalized form.
  func token(_ id: Int32) -> [UInt8]? { normalizedForms[id] ?? tokens[id]?.content }

  func isSpecial(_ token: [UInt8]) -> Bool { special.contains(token) }

  /// Splits a text at its added tokens, from left to right.
  func split(_ text: Span<UInt8>, _ search: Search, _ emit: (Part) throws -> Void) throws {
    let matcher = search == .verbatim ? verbatim : normalized
    var done = 0
    var index = 0
    // The last white space that was taken, cached because tokens made of white space would scan it again and again.
    var taken = 0..<0
    while !matcher.isEmpty, let (id, range) = matcher.firstMatch(in: text, from: index) {
      index = range.upperBound
      guard let token = tokens[id], !token.singleWord || Self.standsAlone(range, in: text) else { continue }
      var start = range.lowerBound
      if token.stripsLeft {
        while start > done, case (let scalar, let width) = text.scalar(before: start), scalar.isSpace {
          start -= width
        }
        start = max(start, done)
      }
      if token.stripsRight, !taken.contains(range.upperBound) {
        taken = range.upperBound..<Self.spaceEnd(in: text, from: range.upperBound)
      }
      let end = token.stripsRight && !taken.isEmpty ? taken.upperBound : range.upperBound
      if done < start { try emit(.text(done..<start)) }
      // As in the reference, white space that belongs to the previous token can match again, as a token made of white space.
      if start < end { try emit(.token(id)) }
      done = end
    }
    if done < text.count { try emit(.text(done..<text.count)) }
  }

  private static func spaceEnd(in text: Span<UInt8>, from start: Int) -> Int {
    var end = start
    while end < text.count, case (let scalar, let width) = text.scalar(at: end), scalar.isSpace {
      end += width
    }
    return end
  }

  private static func standsAlone(_ range: Range<Int>, in text: Span<UInt8>) -> Bool {
    (range.lowerBound == 0 || !text.scalar(before: range.lowerBound).scalar.isWordPart)
      && (range.upperBound == text.count || !text.scalar(at: range.upperBound).scalar.isWordPart)
  }
}
