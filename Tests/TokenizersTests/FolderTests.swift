import EspalierCore
import EspalierTokenizers
import Foundation
import Testing

/// Folders without a `tokenizer.json`, against what `transformers` 5.24 reads from them; made by
/// tools/make_tokenizer_golden.py.
struct FolderTests {
  static let lines = Dictionary(grouping: Files.lines("tokenizers-folders.jsonl")) {
    $0["folder"]?.string ?? ""
  }

  static func tokenizer(_ folder: URL) throws -> Tokenizer {
    try Tokenizer(json: TokenizerParts(folder: folder.path).json())
  }

  @Test func goldenLinesAreThere() { #expect(Self.lines.count > 15) }

  @Test(arguments: lines.keys.filter { !$0.contains("/") }.sorted())
  func foldersOfTheRepository(_ name: String) throws {
    try Self.check(Files.golden.appending(path: "tokenizers-folders/\(name)"), name)
  }

  @Test(
    .enabled(if: Files.exists(Files.shared), "needs ../shared"),
    arguments: lines.keys.filter { $0.contains("/") }.sorted())
  func publishedFolders(_ name: String) throws {
    try Self.check(Files.shared.appending(path: name), name)
  }

  static func check(_ folder: URL, _ name: String) throws {
    var parts = try TokenizerParts(folder: folder.path)
    // GPT-2's folder comes without one.
    if parts.model == nil { parts.model = ["model_type": "gpt2"] }
    let tokenizer = try Tokenizer(json: parts.json())
    for line in lines[name] ?? [] {
      let text = try #require(line["text"]?.string)
      #expect(
        try tokenizer.encode(text, addSpecialTokens: false) == GoldenTests.numbers(line["ids"]),
        "\(text.debugDescription)")
      #expect(
        try tokenizer.encode(text, addSpecialTokens: true) == GoldenTests.numbers(line["ids_special"]),
        "\(text.debugDescription)")
    }
  }
}

/// The errors for folders whose tokenizer cannot be read.
struct UnreadableFolderTests {
  /// A folder with these files, removed after the test.
  static func with<Result>(_ files: [String: String], _ body: (String) throws -> Result) throws -> Result {
    let folder = FileManager.default.temporaryDirectory.appending(path: "tokenizer-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    for (name, content) in files { try Data(content.utf8).write(to: folder.appending(path: name)) }
    return try body(folder.path)
  }

  static let gpt2 = ["vocab.json": #"{"a": 0, "b": 1, "ab": 2}"#, "merges.txt": "#version: 0.2\r\na b\r\n"]

  @Test func readsWhatIsThere() throws {
    var files = Self.gpt2
    files["config.json"] = #"{"model_type": "gpt2"}"#
    try Self.with(files) { folder in
      let tokenizer = try Tokenizer(folder: folder)
      #expect(try tokenizer.encode("abb", addSpecialTokens: true) == [2, 1])
      let names = try Tokenizer.files(in: folder).keys.sorted()
      #expect(names == ["config.json", "merges.txt", "vocab.json"])
    }
    files["tokenizer.json"] = Sketch().text
    try Self.with(files) { folder in
      #expect(try Tokenizer.files(in: folder) == ["tokenizer": folder + "/tokenizer.json"])
      let tokenizer = try Tokenizer(folder: folder)
      #expect(try tokenizer.encode("c", addSpecialTokens: true) == [3])
    }
  }

  static let cases: [([String: String], [String])] = [
    ([:], ["tokenizer.json is missing"]),
    (["tokenizer.model": "x"], ["tokenizer.model", "save_pretrained"]),
    (["tekken.json": "{}", "tokenizer.model": "x"], ["tekken.json", "mistral_format=False"]),
    (["tokenizer.json": "{"], ["tokenizer.json", "line 1"]),
    (["tokenizer.json": "{}"], ["tokenizer.json", "model"]),
    (gpt2, ["no file here says how this model splits text"]),
    (gpt2.merging(["config.json": #"{"model_type": "x"}"#]) { $1 }, ["model_type \"x\""]),
    (
      gpt2.merging(["tokenizer_config.json": #"{"tokenizer_class": "LlamaTokenizerFast"}"#]) { $1 },
      ["tokenizer_class \"LlamaTokenizerFast\""]
    ),
    (
      gpt2.merging(["tokenizer_config.json": #"{"tokenizer_class": "BertTokenizer"}"#]) { $1 },
      ["vocab.txt is missing"]
    ),
    (
      ["vocab.txt": "a\n", "config.json": #"{"model_type": "gpt2"}"#], ["vocab.json is missing"]
    ),
    (
      gpt2.merging(["config.json": #"{"model_type": "gpt2"}"#, "merges.txt": "a b\n\nab"]) { $1 },
      ["model.merges[1]: two tokens"]
    ),
    (
      gpt2.merging(["config.json": #"{"model_type": "gpt2"}"#, "added_tokens.json": #"{"x": "1"}"#]) { $1 },
      ["added_tokens.json[\"x\"]: a token id"]
    ),
    (
      gpt2.merging([
        "config.json": #"{"model_type": "gpt2"}"#,
        "tokenizer_config.json": #"{"added_tokens_decoder": {"y": {"content": "x"}}}"#,
      ]) { $1 }, ["added_tokens_decoder: \"y\" is not a token id"]
    ),
    (
      [
        "vocab.txt": "a\n", "config.json": #"{"model_type": "bert"}"#,
        "tokenizer_config.json": #"{"cls_token": null}"#,
      ],
      ["cls_token is null"]
    ),
    (
      [
        "vocab.txt": "a\n", "config.json": #"{"model_type": "bert"}"#,
        "special_tokens_map.json": #"{"cls_token": {}}"#,
      ],
      ["special_tokens_map.json: cls_token: the member \"content\""]
    ),
  ]

  @Test(arguments: cases.indices)
  func saysWhatIsWrong(_ index: Int) throws {
    let (files, words) = Self.cases[index]
    let error = try Self.with(files) { folder in
      #expect(throws: EspalierError.self) { try Tokenizer(folder: folder) }
    }
    guard let error else { return }
    #expect(error.code == .badInput)
    for word in words { #expect(error.description.contains(word), "\(error)") }
  }
}
