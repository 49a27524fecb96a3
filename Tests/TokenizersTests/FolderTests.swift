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
