import EspalierCore
import EspalierTokenizers
import Foundation
import Testing

/// All parts together, and decoding; expected ids are those of `tokenizers` 0.23.3.
struct TokenizerTests {
  @Test func everyTextComesBack() throws {
    let url = Files.golden.appending(path: "tokenizers/llama3.json")
    guard case .object(var object) = try Files.json(url) else { return }
    object.members.removeAll { $0.key == "decoder" }
    object.members.append(("decoder", ["type": "ByteLevel"]))
    let tokenizer = try Tokenizer(json: .object(object))
    var random = Seeded(state: 7)
    for _ in 0..<300 {
      let text = random.text(Int.random(in: 0...60, using: &random))
      let ids = try tokenizer.encode(text, addSpecialTokens: false)
      #expect(try tokenizer.decode(ids, skipSpecialTokens: false).utf8.elementsEqual(text.utf8))
      #expect(ids.allSatisfy { $0 >= 0 && $0 < tokenizer.vocabularySize && tokenizer.token($0) != nil })
      for id in ids { #expect(tokenizer.token(id).flatMap(tokenizer.id) == id) }
    }
  }

  @Test func bytesOfATextInTheirOrder() throws {
    let tokenizer = try Sketch.bytes().tokenizer()
    var random = Seeded(state: 8)
    let text = random.text(500)
    #expect(try tokenizer.encode(text, addSpecialTokens: true) == text.utf8.map(Int32.init))
    #expect(tokenizer.vocabularySize == 256)
    // Half a character is replaced.
    #expect(try tokenizer.decode([0x61, 0xC3, 0x62], skipSpecialTokens: false) == "a\u{FFFD}b")
  }

  @Test func addedTokensAndTheirSpaces() throws {
    func ids(_ text: String, _ tokens: String..., normalizer: String = "null") throws -> [Int32] {
      var sketch = Sketch.bytes()
      sketch.addedTokens = "[" + tokens.joined(separator: ", ") + "]"
      sketch.normalizer = normalizer
      return try sketch.tokenizer().encode(text, addSpecialTokens: false)
    }
    func bytes(_ text: String) -> [Int32] { text.utf8.map(Int32.init) }
    #expect(try ids("x <s> y", Sketch.token("<s>")) == bytes("x ") + [256] + bytes(" y"))
    #expect(try ids("x <s> y", Sketch.token("<s>", left: true)) == bytes("x") + [256] + bytes(" y"))
    #expect(
      try ids("x <s> \n\u{3000}y", Sketch.token("<s>", right: true)) == bytes("x ") + [256] + bytes("y"))
    #expect(try ids("bb", Sketch.token("b")) == [0x62, 0x62])
    // The longest of those that begin leftmost.
    #expect(
      try ids("abcd", Sketch.token("bc"), Sketch.token("abc"), Sketch.token("abcde")) == [257] + bytes("d"))
    #expect(try ids("abce", Sketch.token("abcd"), Sketch.token("bc")) == bytes("a") + [257] + bytes("e"))
    #expect(try ids("at cat, at", Sketch.token("at", word: true)) == [256] + bytes(" cat, ") + [256])
    #expect(
      try ids("at_ at\u{301} at\u{200D}", Sketch.token("at", word: true)) == bytes("at_ at\u{301} at\u{200D}")
    )
    // A token made of white space can match white space that is taken already.
    #expect(
      try ids("<s>   y", Sketch.token("<s>", right: true), Sketch.token("  ")) == [256, 257] + bytes(" y"))
    // A token with the content of one in the vocabulary has its id, another the next after the vocabulary.
    #expect(try ids("<s>a", Sketch.token("<s>", id: 9999), Sketch.token("a", id: 12)) == [256, 0x61])
    // Normalized tokens are found in the normalized text, others before.
    let lower = #"{"type": "Lowercase"}"#
    #expect(
      try ids("AB CD", Sketch.token("Ab", normalized: true), Sketch.token("Cd"), normalizer: lower)
        == [256] + bytes(" cd"))
    #expect(
      try ids("AB Cd", Sketch.token("ab"), Sketch.token("Cd"), normalizer: lower) == bytes("ab ") + [257])
  }

  @Test func normalizers() throws {
    func normalized(_ text: String, _ normalizer: String) throws -> String {
      var sketch = Sketch.bytes()
      sketch.normalizer = normalizer
      let tokenizer = try sketch.tokenizer()
      return try tokenizer.decode(tokenizer.encode(text, addSpecialTokens: false), skipSpecialTokens: false)
    }
    func check(
      _ text: String, _ normalizer: String, _ expected: String, at line: SourceLocation = #_sourceLocation
    ) throws {
      let result = try normalized(text, normalizer)
      #expect(
        result.utf8.elementsEqual(expected.utf8), "\(result.unicodeScalars.map(\.value))",
        sourceLocation: line)
    }
    try check("e\u{301}x\u{327}\u{301}", #"{"type": "NFC"}"#, "\u{E9}x\u{327}\u{301}")
    try check("\u{1E69}한", #"{"type": "NFD"}"#, "s\u{323}\u{307}\u{1112}\u{1161}\u{11AB}")
    try check("ﬁ①ﷺ㎏", #"{"type": "NFKC"}"#, "fi1صلى الله عليه وسلمkg")
    try check("𝔘Ⅷé½", #"{"type": "NFKD"}"#, "UVIIIe\u{301}1\u{2044}2")
    try check("\u{345}\u{F75}", #"{"type": "NFD"}"#, "\u{F71}\u{F74}\u{345}")
    // Characters newer than Unicode 9 neither decompose nor move.
    try check("\u{11938}\u{1ABF}\u{301}\u{327}", #"{"type": "NFD"}"#, "\u{11938}\u{1ABF}\u{327}\u{301}")
    try check("İΣß", #"{"type": "Lowercase"}"#, "i\u{307}σß")
    try check("e\u{301}क\u{94D}", #"{"type": "StripAccents"}"#, "eक")
    try check("\u{85} a b\u{3000}\n", #"{"type": "Strip", "strip_left": true, "strip_right": true}"#, "a b")
    try check(" a ", #"{"type": "Strip", "strip_left": false, "strip_right": true}"#, " a")
    try check("a  b", #"{"type": "Replace", "pattern": {"String": " "}, "content": "__"}"#, "a____b")
    try check("a12b3", ##"{"type": "Replace", "pattern": {"Regex": "[0-9]+"}, "content": "#"}"##, "a#b#")
    try check("ab", #"{"type": "Replace", "pattern": {"String": ""}, "content": "-"}"#, "-a-b-")
    try check("ab", #"{"type": "Prepend", "prepend": "▁"}"#, "▁ab")
    try check("", #"{"type": "Prepend", "prepend": "▁"}"#, "")
  }

  @Test func metaspaceAtTheStartOfTheInput() throws {
    func pieces(_ text: String, scheme: String, before: String = "", normalizer: String = "null") throws
      -> String
    {
      var sketch = Sketch()
      sketch.normalizer = normalizer
      sketch.preTokenizer = """
        {"type": "Sequence", "pretokenizers": [\(before)
          {"type": "Metaspace", "replacement": "_", "prepend_scheme": "\(scheme)", "split": true}]}
        """
      sketch.model = """
        {"type": "BPE", "vocab": {"_": 0, "a": 1, "b": 2, "|": 3, "_|": 4, "a|": 5, "b|": 6}, "merges": [],
         "end_of_word_suffix": "|"}
        """
      sketch.addedTokens = "[" + Sketch.token("<s>") + "]"
      let tokenizer = try sketch.tokenizer()
      return try tokenizer.encode(text, addSpecialTokens: false).compactMap { tokenizer.token($0) }.joined()
    }
    let digits = #"{"type": "Split", "pattern": {"String": "-"}, "behavior": "Removed", "invert": false},"#
    #expect(try pieces("a b", scheme: "always") == "_a|_b|")
    #expect(try pieces(" a", scheme: "always") == "_a|")
    #expect(try pieces("a-b", scheme: "always", before: digits) == "_a|_b|")
    #expect(try pieces("a-b", scheme: "first", before: digits) == "_a|b|")
    #expect(try pieces("<s>a b", scheme: "first") == "<s>a|_b|")
    #expect(try pieces("a<s>b", scheme: "first") == "_a|<s>b|")
    #expect(try pieces("a b", scheme: "never") == "a|_b|")
    let strip = #"{"type": "Strip", "strip_left": true, "strip_right": false}"#
    #expect(try pieces(" a", scheme: "first", normalizer: strip) == "a|")
  }

  @Test func specialTokensAround() throws {
    func ids(_ processor: String, special: Bool = true) throws -> [Int32] {
      var sketch = Sketch()
      sketch.postProcessor = processor
      return try sketch.tokenizer().encode("ab", addSpecialTokens: special)
    }
    let template = """
      {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A"}}],
       "pair": [{"Sequence": {"id": "B"}}, {"Sequence": {"id": "A"}}], "special_tokens": {"x": {"id": "x", "ids": [7, 8]}}}
      """
    let roberta = #"{"type": "RobertaProcessing", "sep": ["s", 5], "cls": ["c", 4]}"#
    let bert = #"{"type": "BertProcessing", "sep": ["s", 5], "cls": ["c", 4]}"#
    #expect(try ids(template) == [7, 8, 2])
    #expect(try ids(template, special: false) == [2])
    #expect(try ids(roberta) == [4, 2, 5])
    #expect(try ids(#"{"type": "ByteLevel"}"#) == [2])
    // Each piece of a template is an encoding for the next step.
    #expect(try ids(#"{"type": "Sequence", "processors": [\#(template), \#(bert)]}"#) == [4, 7, 8, 5, 2, 5])
    #expect(
      try ids(#"{"type": "Sequence", "processors": [\#(template), \#(roberta)]}"#) == [4, 7, 8, 5, 5, 2, 5])
    #expect(try ids(#"{"type": "Sequence", "processors": [\#(template), \#(template)]}"#) == [2, 7, 8])
  }

  @Test func decoders() throws {
    func text(_ ids: [Int32], _ decoder: String, skip: Bool = false) throws -> String {
      var sketch = Sketch()
      sketch.model = """
        {"type": "BPE", "vocab": {"▁a": 0, "b": 1, "<0xC3>": 2, "<0xA9>": 3, "▁": 4, "<0xZZ>": 5}, "merges": []}
        """
      sketch.addedTokens = "[" + Sketch.token("<s>", special: true) + "]"
      sketch.decoder = decoder
      return try sketch.tokenizer().decode(ids, skipSpecialTokens: skip)
    }
    #expect(try text([0, 1, 6], "null") == "▁a b <s>")
    #expect(try text([0, 1, 6], "null", skip: true) == "▁a b")
    #expect(try text([2, 3, 2, 1, 5], #"{"type": "ByteFallback"}"#) == "\u{FFFD}\u{FFFD}\u{FFFD}b<0xZZ>")
    #expect(try text([2, 3, 1, 2], #"{"type": "ByteFallback"}"#) == "éb\u{FFFD}")
    #expect(try text([0, 4, 0], #"{"type": "Metaspace", "replacement": "▁"}"#) == "a  a")
    #expect(
      try text([0, 0], #"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}"#) == " a a")
    let llama = """
      {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
      """
    #expect(try text([0, 4, 4, 1, 2, 3], llama) == "a  bé")
    #expect(try text([4, 4], #"{"type": "Strip", "content": "▁", "start": 0, "stop": 2147483647}"#).isEmpty)
  }

  @Test(.enabled(if: Files.exists(Files.shared), "the folder ../shared is not there"))
  func lettersToSort() throws {
    let tokenizer = try Files.tokenizer(
      Files.shared.appending(path: "models/gpt2-nano-sort-86K/tokenizer.json"))
    #expect(try tokenizer.encode("CABBA", addSpecialTokens: false) == [2, 0, 1, 1, 0])
    #expect(try tokenizer.decode([2, 0, 1], skipSpecialTokens: false) == "CAB")
  }

  @Test func manyTasksAtOnce() async throws {
    let tokenizer = try Files.tokenizer(Files.golden.appending(path: "tokenizers/llama3.json"))
    var random = Seeded(state: 3)
    let texts = (0..<40).map { _ in random.text(100) }
    let expected = try texts.map { try tokenizer.encode($0, addSpecialTokens: true) }
    try await withThrowingTaskGroup(of: (Int, [Int32]).self) { group in
      for (index, text) in texts.enumerated() {
        group.addTask { (index, try tokenizer.encode(text, addSpecialTokens: true)) }
      }
      for try await (index, ids) in group { #expect(ids == expected[index]) }
    }
  }
}
