import EspalierCore
import EspalierTokenizers
import Foundation
import Testing

/// Invalid files, each with the place that the error must name.
struct HostileTests {
  static func model(_ text: String) -> Sketch { Sketch(model: text) }

  static let cases: [(Sketch, String)] = [
    (Sketch(model: "null"), "the member \"model\" is missing"),
    (Sketch(model: "[]"), "model: "),
    (Sketch(model: #"{"type": "Trigram"}"#), "model: the model \"Trigram\" is not supported"),
    (Sketch(model: #"{"vocab": {}}"#), "model: the member \"type\" is missing"),
    (Sketch(model: #"{"type": 3}"#), "model.type: a string"),
    (Sketch(model: #"{"type": "BPE", "merges": []}"#), "model: the member \"vocab\""),
    (Sketch(model: #"{"type": "BPE", "vocab": {}}"#), "model: the member \"merges\""),
    (Sketch(model: #"{"type": "BPE", "vocab": [], "merges": []}"#), "model.vocab: an object"),
    (Sketch(model: #"{"type": "BPE", "vocab": {"a": -1}, "merges": []}"#), "model.vocab[\"a\"]: a token id"),
    (
      Sketch(model: #"{"type": "BPE", "vocab": {"a": 2147483648}, "merges": []}"#),
      "model.vocab[\"a\"]: a token id"
    ),
    (Sketch(model: #"{"type": "BPE", "vocab": {"a": 1.5}, "merges": []}"#), "model.vocab[\"a\"]: a token id"),
    (Sketch(model: #"{"type": "BPE", "vocab": {"a": "0"}, "merges": []}"#), "model.vocab[\"a\"]: a token id"),
    (
      Sketch(model: #"{"type": "BPE", "vocab": {"a": 7, "b": 7}, "merges": []}"#),
      "model.vocab: the id 7 has two"
    ),
    (
      Sketch(model: #"{"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}"#),
      "model.merges[0]: the token \"ab\""
    ),
    (
      Sketch(model: #"{"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "x"]]}"#),
      "model.merges[0]: the token \"x\""
    ),
    (
      Sketch(model: #"{"type": "BPE", "vocab": {"a": 0, "aa": 1}, "merges": ["a a", "a"]}"#),
      "model.merges[1]: two tokens"
    ),
    (
      Sketch(model: #"{"type": "BPE", "vocab": {"a": 0, "aa": 1}, "merges": ["a a", ["a", "a"]]}"#),
      "model.merges[1]: two"
    ),
    (
      Sketch(model: #"{"type": "BPE", "vocab": {"a": 0, "aa": 1}, "merges": [["a", "a"], "a a"]}"#),
      "model.merges[1]: two"
    ),
    (Sketch(model: #"{"type": "BPE", "vocab": {}, "merges": {}}"#), "model.merges: an array"),
    (Sketch(model: #"{"type": "BPE", "dropout": 0.1, "vocab": {}, "merges": []}"#), "model.dropout: "),
    (
      Sketch(model: #"{"type": "BPE", "fuse_unk": 1, "vocab": {}, "merges": []}"#),
      "model.fuse_unk: true or false"
    ),
    (Sketch(model: #"{"type": "WordLevel", "vocab": {"a": 0}}"#), "model: the member \"unk_token\""),
    (Sketch(model: #"{"type": "Unigram"}"#), "model: the member \"vocab\" is missing"),
    (Sketch(model: #"{"type": "Unigram", "vocab": {}}"#), "model.vocab: an array"),
    (Sketch(model: #"{"type": "Unigram", "vocab": [["a"]]}"#), "model.vocab[0]: a token and its score"),
    (
      Sketch(model: #"{"type": "Unigram", "vocab": [["a", -1], ["b", "x"]]}"#),
      "model.vocab[1]: a token and its score"
    ),
    (Sketch(model: #"{"type": "Unigram", "unk_id": 1, "vocab": [["a", -1]]}"#), "model: unk_id is 1"),
    (Sketch(model: #"{"type": "Unigram", "unk_id": -1, "vocab": [["a", -1]]}"#), "model.unk_id: a token id"),
    (
      Sketch(
        model: #"{"type": "Unigram", "vocab": [["\#(String(repeating: "a", count: 4097))", -1]]}"#),
      "model.vocab: the tokens are too many or too long"
    ),
    (
      Sketch(model: #"{"type": "WordPiece", "vocab": {"a": 0}}"#),
      "model: the member \"continuing_subword_prefix\""
    ),
    (
      Sketch(
        model:
          #"{"type": "WordPiece", "vocab": {"a": 0}, "continuing_subword_prefix": "@", "unk_token": "?", "max_input_chars_per_word": -1}"#
      ), "model.max_input_chars_per_word: "
    ),
    (Sketch(normalizer: #"{"type": "BertNormalizer"}"#), "normalizer: the member \"lowercase\""),
    (
      Sketch(normalizer: #"{"type": "Precompiled", "precompiled_charsmap": "AAA"}"#),
      "normalizer.precompiled_charsmap: it is not Base64"
    ),
    (
      Sketch(normalizer: #"{"type": "Precompiled", "precompiled_charsmap": "/w=="}"#),
      "normalizer.precompiled_charsmap: the table is cut off"
    ),
    (
      Sketch(normalizer: #"{"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="}"#),
      "normalizer.precompiled_charsmap: the table is cut off"
    ),
    (
      Sketch(normalizer: #"{"type": "Precompiled", "precompiled_charsmap": "BAAAAAABAAA="}"#),
      "normalizer.precompiled_charsmap: the table points outside itself"
    ),
    (
      Sketch(normalizer: #"{"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAD/"}"#),
      "normalizer.precompiled_charsmap: the replacements are not valid UTF-8"
    ),
    (
      Sketch(preTokenizer: #"{"type": "CharDelimiterSplit", "delimiter": ""}"#),
      "pre_tokenizer.delimiter: one character"
    ),
    (Sketch(preTokenizer: #"{"type": "FixedLength", "length": 0}"#), "pre_tokenizer: the length"),
    (Sketch(decoder: #"{"type": "BPEDecoder", "suffix": ""}"#), "decoder.suffix: the suffix is empty"),
    (
      Sketch(normalizer: #"{"type": "BertNormaliser"}"#),
      "normalizer: the normalizer \"BertNormaliser\" is not supported"
    ),
    (
      Sketch(normalizer: #"{"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "X"}]}"#),
      "normalizer.normalizers[1]: "
    ),
    (
      Sketch(normalizer: #"{"type": "Replace", "pattern": {"Regex": "(a"}, "content": ""}"#),
      "normalizer.pattern.Regex: the pattern"
    ),
    (
      Sketch(normalizer: #"{"type": "Replace", "pattern": {}, "content": ""}"#),
      "normalizer.pattern: the member \"Regex\""
    ),
    (Sketch(normalizer: #"{"type": "Strip"}"#), "normalizer: the member \"strip_left\""),
    (
      Sketch(preTokenizer: #"{"type": "UnicodeScripts"}"#),
      "pre_tokenizer: the pre-tokenizer \"UnicodeScripts\""
    ),
    (Sketch(preTokenizer: #"{"pretokenizers": []}"#), "pre_tokenizer: the member \"type\""),
    (
      Sketch(
        preTokenizer: #"{"type": "Split", "pattern": {"String": "a"}, "behavior": "X", "invert": false}"#),
      "pre_tokenizer.behavior: "
    ),
    (
      Sketch(preTokenizer: #"{"type": "Metaspace", "replacement": "ab"}"#),
      "pre_tokenizer.replacement: one character"
    ),
    (
      Sketch(preTokenizer: #"{"type": "Metaspace", "replacement": "_", "add_prefix_space": false}"#),
      "pre_tokenizer: add_prefix_space"
    ),
    (Sketch(postProcessor: #"{"type": "X"}"#), "post_processor: the post-processor \"X\""),
    (
      Sketch(postProcessor: #"{"type": "BertProcessing", "cls": ["a", 0], "sep": ["b"]}"#),
      "post_processor.sep: "
    ),
    (
      Sketch(
        postProcessor:
          #"{"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B"}}], "pair": [], "special_tokens": {}}"#
      ), "post_processor.single[0].Sequence: "
    ),
    (
      Sketch(
        postProcessor:
          #"{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}], "pair": [], "special_tokens": {}}"#
      ), "post_processor.special_tokens: the member \"x\""
    ),
    (Sketch(decoder: #"{"type": "CTC"}"#), "decoder: the decoder \"CTC\""),
    (Sketch(addedTokens: #"[{"content": "x"}]"#), "added_tokens[0]: the member"),
    (Sketch(addedTokens: "3"), "added_tokens: an array"),
    (Sketch(addedTokens: "[" + Sketch.token("x", id: -3) + "]"), "added_tokens[0].id: a token id"),
    (
      Sketch(
        normalizer: #"{"type": "Strip", "strip_left": true, "strip_right": true}"#,
        addedTokens: "[" + Sketch.token(" ", normalized: true) + "]"),
      "added_tokens[0]: normalization removes the whole token"
    ),
    (
      Sketch(addedTokens: "[" + Sketch.token(String(repeating: "x", count: 5000)) + "]"),
      "added_tokens[0].content: the string has 5000"
    ),
    (Sketch(normalizer: sequence("normalizers", #"{"type": "NFC"}"#, 65)), "normalizer: there are 65 steps"),
    (
      Sketch(
        preTokenizer: sequence(
          "pretokenizers", #"{"type": "ByteLevel", "add_prefix_space": true, "use_regex": false}"#, 5)),
      "pre_tokenizer: at most 4"
    ),
  ]

  static func sequence(_ key: String, _ step: String, _ count: Int) -> String {
    #"{"type": "Sequence", "\#(key)": [\#(Array(repeating: step, count: count).joined(separator: ", "))]}"#
  }

  @Test(arguments: cases.indices)
  func namesThePlace(_ index: Int) throws {
    let (sketch, complaint) = Self.cases[index]
    let error = try #require(throws: EspalierError.self) { try sketch.tokenizer() }
    #expect(error.code == .badInput)
    #expect(error.description.contains(complaint), "\(error)")
  }

  @Test func otherDocuments() throws {
    for text in ["3", "[]", "\"model\"", "null"] {
      #expect(throws: EspalierError.self) { try Tokenizer(json: JSON(parsing: text)) }
    }
    #expect(throws: EspalierError.self) { try Tokenizer(json: ["version": "2.0", "model": [:]]) }
    let twice = JSONObject([("a", 0), ("a", 1)])
    let json: JSON = ["model": ["type": "BPE", "vocab": .object(twice), "merges": []]]
    let error = try #require(throws: EspalierError.self) { try Tokenizer(json: json) }
    #expect(error.description.contains("model.vocab[\"a\"]: the token occurs twice"))
  }

  @Test func deepNesting() throws {
    var step = #"{"type": "NFC"}"#
    for _ in 0..<200 { step = #"{"type": "Sequence", "normalizers": [\#(step)]}"# }
    #expect(throws: EspalierError.self) { try Sketch(normalizer: step).tokenizer() }
  }

  @Test func idsAtTheEdge() throws {
    let sketch = Sketch(
      model: #"{"type": "BPE", "vocab": {"": 5, "a": 2147483647, "b": 0}, "merges": []}"#,
      addedTokens: "[" + Sketch.token("new") + ", " + Sketch.token("") + "]")
    let tokenizer = try sketch.tokenizer()
    #expect(tokenizer.vocabularySize == 1 << 31)
    #expect(try tokenizer.encode("abnew", addSpecialTokens: true) == [.max, 0, 3])
    #expect(tokenizer.token(.max) == "a")
    #expect(tokenizer.token(-1) == nil)
    #expect(tokenizer.token(4) == nil)
    #expect(tokenizer.id(of: "zzz") == nil)
    #expect(try tokenizer.decode([-1, 99, .min, .max], skipSpecialTokens: true) == "a")
  }

  @Test func textsThatGrow() throws {
    let wide = String(repeating: "x", count: 4000)
    let replace = #"{"type": "Replace", "pattern": {"String": "x"}, "content": "\#(wide)"}"#
    let tokenizer = try Sketch(normalizer: Self.sequence("normalizers", replace, 60)).tokenizer()
    #expect(throws: EspalierError.self) { try tokenizer.encode("axb", addSpecialTokens: false) }
    #expect(try tokenizer.encode("ab", addSpecialTokens: false) == [2])
    var decoding = Sketch(
      decoder: Self.sequence("decoders", replace.replacingOccurrences(of: "\"x\"", with: "\"a\""), 60))
    decoding.model = #"{"type": "BPE", "vocab": {"a": 0}, "merges": []}"#
    #expect(throws: Never.self) { try decoding.tokenizer().decode([0], skipSpecialTokens: false) }
    decoding.decoder = Self.sequence(
      "decoders", #"{"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaa"}"#, 60)
    #expect(throws: EspalierError.self) { try decoding.tokenizer().decode([0], skipSpecialTokens: false) }
  }

  /// A table that replaces one character with four thousand.
  @Test func tablesThatGrow() throws {
    var bytes: [UInt8] = []
    func append(_ value: UInt32) {
      for shift in 0..<4 { bytes.append(UInt8(value >> UInt32(8 * shift) & 255)) }
    }
    // The root leads with "a" to the unit 97, which has the value at 97 ^ 1.
    var units = [UInt32](repeating: 0, count: 128)
    units[97] = 97 | 1 << 8 | 1 << 10
    units[96] = 1 << 31
    append(UInt32(units.count * 4))
    units.forEach(append)
    bytes += [UInt8](repeating: UInt8(ascii: "x"), count: 4000)
    let table = Data(bytes).base64EncodedString()
    let tokenizer = try Sketch.cuts(
      normalizer: #"{"type": "Precompiled", "precompiled_charsmap": "\#(table)"}"#
    )
    .tokenizer()
    #expect(try tokenizer.encode("ba", addSpecialTokens: false).count == 4001)
    #expect(throws: EspalierError.self) {
      try tokenizer.encode(String(repeating: "a", count: 1000), addSpecialTokens: false)
    }
    let longer = Data(bytes + [UInt8](repeating: UInt8(ascii: "x"), count: 100)).base64EncodedString()
    #expect(throws: EspalierError.self) {
      try Sketch.cuts(normalizer: #"{"type": "Precompiled", "precompiled_charsmap": "\#(longer)"}"#)
        .tokenizer()
    }
  }

  @Test func textThatIsNotUTF8() throws {
    let tokenizer = try Sketch().tokenizer()
    for bytes: [UInt8] in [
      [0xFF], [0x61, 0xC3], [0xED, 0xA0, 0x80], [0xC0, 0x80], [0xF4, 0x90, 0x80, 0x80],
    ] {
      #expect(throws: EspalierError.self) { try tokenizer.encode(bytes, addSpecialTokens: false) }
    }
  }

  /// Tokens that are white space themselves take the white space on either side.
  @Test(.timeLimit(.minutes(30)))
  func tokensOfWhiteSpace() throws {
    let sketch = Sketch(addedTokens: "[" + Sketch.token("\t", left: true, right: true) + "]")
    let text = [UInt8](repeating: 9, count: 100_000)
    #expect(try sketch.tokenizer().encode(text, addSpecialTokens: false).first == 4)
  }
}
