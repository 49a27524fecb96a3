import EspalierCore
import EspalierTokenizers
import Testing

/// Unigram against the plain definition, and WordPiece at its edges.
struct UnigramTests {
  static func model(_ vocabulary: [(String, Double)], _ options: String = #""unk_id": 0"#) throws -> Tokenizer
  {
    let list = vocabulary.map { "[\(JSON.string($0.0).text), \($0.1)]" }.joined(separator: ", ")
    return try Sketch(model: #"{"type": "Unigram", \#(options), "vocab": [\#(list)]}"#).tokenizer()
  }

  /// The largest sum of scores of all ways to split the text.
  static func best(_ text: Substring, _ scores: [String: Double]) -> Double {
    if text.isEmpty { return 0 }
    var sum = -Double.infinity
    for end in text.indices.map({ text.index(after: $0) }) {
      guard let score = scores[String(text[..<end])] else { continue }
      sum = max(sum, score + best(text[end...], scores))
    }
    return sum
  }

  @Test(arguments: 0..<20)
  func theBestOfAllWays(_ seed: UInt64) throws {
    var random = Seeded(state: seed)
    var scores: [String: Double] = [:]
    // Sums of small integers are exact, so that the order of addition does not matter.
    for token in ["a", "b", "c"] { scores[token] = -Double(Int.random(in: 5...9, using: &random)) }
    for _ in 0..<Int.random(in: 3...30, using: &random) {
      let length = Int.random(in: 2...5, using: &random)
      let token = String((0..<length).compactMap { _ in "abc".randomElement(using: &random) })
      scores[token] = -Double(Int.random(in: 5...25, using: &random))
    }
    let vocabulary = [("?", -9.0)] + scores.map { ($0.key, $0.value) }
    let tokenizer = try Self.model(vocabulary)
    for length in 0..<12 {
      let text = String((0..<length).compactMap { _ in "abc".randomElement(using: &random) })
      let ids = try tokenizer.encode(text, addSpecialTokens: false)
      #expect(ids.compactMap { tokenizer.token($0) }.joined() == text)
      #expect(ids.reduce(0) { $0 + vocabulary[Int($1)].1 } == Self.best(text[...], scores))
    }
  }

  @Test func unknownCharacters() throws {
    let plain: [(String, Double)] = [("?", 0), ("a", -1), ("b", -2)]
    func ids(_ text: String, _ vocabulary: [(String, Double)], _ options: String = #""unk_id": 0"#) throws
      -> [Int32]
    {
      try Self.model(vocabulary, options).encode(text, addSpecialTokens: false)
    }
    #expect(try ids("axyzb", plain) == [1, 0, 2])
    // The token for unknown characters in the text is one of them.
    #expect(try ids("ax?yb", plain) == [1, 0, 2])
    #expect(try ids("xya", plain + [("xy", -40)]) == [3, 1])
    let bytes = plain + [("<0xC3>", 0), ("<0xA9>", 0)]
    #expect(try ids("aéb", bytes, #""unk_id": 0, "byte_fallback": true"#) == [1, 3, 4, 2])
    #expect(try ids("aéb", bytes, #""unk_id": 0, "byte_fallback": false"#) == [1, 0, 2])
    #expect(try ids("aéxb", bytes, #""unk_id": 0, "byte_fallback": true"#) == [1, 0, 2])
    #expect(try ids("ab", plain, #""unk_id": null"#) == [1, 2])
    #expect(throws: EspalierError.self) { try ids("axb", plain, #""unk_id": null"#) }
    #expect(throws: EspalierError.self) { try ids("a", [], #""unk_id": null"#) }
  }

  /// A text without spaces is one word, and tokens overlap all over it.
  @Test(.timeLimit(.minutes(5)))
  func oneLongWord() throws {
    let tokenizer = try Self.model([("?", -20), ("a", -3), ("aa", -5), ("aaa", -7)])
    let ids = try tokenizer.encode(String(repeating: "a", count: 300_000), addSpecialTokens: false)
    #expect(ids.count == 100_000)
    #expect(try tokenizer.encode(String(repeating: "x", count: 300_000), addSpecialTokens: false) == [0])
  }

  @Test func wordPieces() throws {
    func ids(_ text: String, unknown: String = "?", prefix: String = "##", longest: Int = 5) throws -> [Int32]
    {
      let model = """
        {"type": "WordPiece", "unk_token": "\(unknown)", "continuing_subword_prefix": "\(prefix)",
         "max_input_chars_per_word": \(longest), "vocab": {"?": 0, "a": 1, "ab": 2, "##c": 3, "##cd": 4, "é": 5, "c": 6}}
        """
      return try Sketch(model: model).tokenizer().encode(text, addSpecialTokens: false)
    }
    #expect(try ids("abcdc") == [2, 4, 3])
    #expect(try ids("abd") == [0])
    // The longest token is taken, even if the rest then cannot be split.
    #expect(try ids("ab##c") == [0])
    #expect(try ids("abcccc") == [0])
    #expect(try ids("abcccc", longest: 6) == [2, 3, 3, 3, 3])
    #expect(try ids("éa", prefix: "") == [5, 1])
    #expect(try ids("éééééé", prefix: "") == [0])
    #expect(try ids("ab", prefix: "none") == [2])
    #expect(throws: EspalierError.self) { try ids("x", unknown: "!") }
    #expect(try ids("ab", unknown: "!") == [2])
  }
}
