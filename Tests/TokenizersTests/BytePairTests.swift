import EspalierCore
import EspalierTokenizers
import Testing

/// Byte-pair merging against the plain definition: repeatedly apply the leftmost merge of the lowest rank.
struct BytePairTests {
  struct Grammar {
    var vocabulary: [String: Int32] = [:]
    var merges: [(String, String)] = []

    init(letters: String, merges count: Int, random: inout Seeded) {
      for letter in letters { vocabulary[String(letter)] = Int32(vocabulary.count) }
      while merges.count < count {
        let tokens = vocabulary.keys.sorted()
        let pair = (tokens.randomElement(using: &random) ?? "", tokens.randomElement(using: &random) ?? "")
        guard (pair.0 + pair.1).count <= 8, !merges.contains(where: { $0 == pair }) else { continue }
        merges.append(pair)
        if vocabulary[pair.0 + pair.1] == nil { vocabulary[pair.0 + pair.1] = Int32(vocabulary.count) }
      }
    }

    var json: JSON {
      let members = vocabulary.map { (key: $0.key, value: JSON.integer(Int($0.value))) }
      return [
        "model": [
          "type": "BPE", "vocab": .object(JSONObject(members)),
          "merges": .array(merges.map { .array([.string($0.0), .string($0.1)]) }),
        ]
      ]
    }

    func encode(_ text: String) -> [Int32] {
      var parts = text.map(String.init)
      while true {
        var best: (rank: Int, place: Int)?
        for place in 0..<max(0, parts.count - 1) {
          let rank = merges.firstIndex { $0 == (parts[place], parts[place + 1]) }
          if let rank, best.map({ rank < $0.rank }) ?? true { best = (rank, place) }
        }
        guard let best else { return parts.compactMap { vocabulary[$0] } }
        parts.replaceSubrange(best.place...best.place + 1, with: [parts[best.place] + parts[best.place + 1]])
      }
    }
  }

  @Test(arguments: 0..<30)
  func mergesInOrder(_ seed: UInt64) throws {
    var random = Seeded(state: seed)
    let letters = ["ab", "abc", "abcdefghij"][Int(seed % 3)]
    var grammar = Grammar(letters: letters, merges: Int.random(in: 1...40, using: &random), random: &random)
    // Merges may come before the merges that make their parts.
    if seed % 4 == 1 { grammar.merges.shuffle(using: &random) }
    let tokenizer = try Tokenizer(json: grammar.json)
    for length in [0, 1, 2, 3, 5, 8, 31, 33, 40, 200] {
      let text = String((0..<length).compactMap { _ in letters.randomElement(using: &random) })
      #expect(try tokenizer.encode(text, addSpecialTokens: false) == grammar.encode(text), "\(text)")
    }
  }

  /// Without a pre-tokenizer a text is one word; without cuts, or with a scan for each merge, this would take hours.
  @Test(.timeLimit(.minutes(30)))
  func oneLongWord() throws {
    var random = Seeded(state: 1)
    let grammar = Grammar(letters: "abcdefghij", merges: 60, random: &random)
    let tokenizer = try Tokenizer(json: grammar.json)
    let text = (0..<100_000).compactMap { _ in "abcdefghij".utf8.randomElement(using: &random) }
    let ids = try tokenizer.encode(text, addSpecialTokens: false)
    #expect(try tokenizer.decode(ids, skipSpecialTokens: false).filter { $0 != " " }.utf8.elementsEqual(text))
    // A repeated letter cannot be cut anywhere.
    var doubling = Sketch()
    doubling.model = #"{"vocab": {"a": 0, "aa": 1, "aaaa": 2}, "merges": [["a", "a"], ["aa", "aa"]]}"#
    let same = [UInt8](repeating: UInt8(ascii: "a"), count: 100_003)
    let merged = try doubling.tokenizer().encode(same, addSpecialTokens: false)
    #expect(merged == [Int32](repeating: 2, count: 25_000) + [1, 0])
  }

  @Test func unknownCharacters() throws {
    var sketch = Sketch()
    func ids(_ text: String, _ options: String, _ vocabulary: String) throws -> [Int32] {
      sketch.model = #"{"type": "BPE", \#(options), "vocab": {\#(vocabulary)}, "merges": []}"#
      return try sketch.tokenizer().encode(text, addSpecialTokens: false)
    }
    let plain = #""?": 0, "a": 1"#
    #expect(try ids("xya", #""unk_token": null"#, plain) == [1])
    #expect(try ids("xyaz", #""unk_token": "?""#, plain) == [0, 0, 1, 0])
    #expect(try ids("xyaz", #""unk_token": "?", "fuse_unk": true"#, plain) == [0, 1, 0])
    // The bytes of é are there, those of z are not; the waiting unknown token comes after them, as in the reference.
    let bytes = #""?": 0, "a": 1, "<0xC3>": 2, "<0xA9>": 3"#
    #expect(try ids("zéa", #""unk_token": "?", "byte_fallback": true"#, bytes) == [2, 3, 0, 1])
    #expect(throws: EspalierError.self) { try ids("xa", #""unk_token": "!""#, plain) }
    #expect(try ids("aa", #""unk_token": "!""#, plain) == [1, 1])
  }
}
