import EspalierCore
import EspalierTokenizers
import Foundation
import Testing

/// Token for token the same as the library `tokenizers` 0.23.3; made by tools/make_golden.py and
/// tools/make_tokenizer_golden.py.
struct GoldenTests {
  struct Line {
    let text: String
    let ids: [Int32]
    let special: [Int32]
    /// The text of `special`.
    let decoded: String?
  }

  /// The lines of both files by tokenizer.
  static let lines: [String: [Line]] = {
    var lines: [String: [Line]] = [:]
    for json in Files.lines("tokenizers.jsonl") + Files.lines("tokenizers-models.jsonl") {
      guard let key = json["tokenizer"]?.string, let text = json["text"]?.string,
        let ids = numbers(json["ids"]), let special = numbers(json["ids_special"])
      else { continue }
      lines[key, default: []].append(
        Line(text: text, ids: ids, special: special, decoded: json["decoded"]?.string))
    }
    return lines
  }()

  static func numbers(_ json: JSON?) -> [Int32]? { json?.array?.compactMap { $0.integer.map(Int32.init) } }

  static let ours = lines.keys.filter { $0.hasPrefix("golden/") || $0 == "demo" }.sorted()
  static let theirs = lines.keys.filter { !ours.contains($0) && $0 != "qwen2" }.sorted()

  @Test func goldenLinesAreThere() {
    #expect(Self.lines.values.reduce(0) { $0 + $1.count } > 8000)
    #expect(Self.ours.count > 50)
  }

  @Test(arguments: ours)
  func tokenizersOfTheRepository(_ key: String) throws {
    let name = key == "demo" ? "demo/tokenizer.json" : "Tests/Golden/tokenizers/\(key.dropFirst(7)).json"
    try Self.check(try Files.tokenizer(Files.repository.appending(path: name)), key)
  }

  @Test(.enabled(if: Files.exists(Files.shared), "the folder ../shared is not there"), arguments: theirs)
  func publishedTokenizers(_ key: String) throws {
    try Self.check(try Files.tokenizer(Files.shared.appending(path: key)), key)
  }

  @Test(.enabled(if: Files.exists(Files.shared), "needs ../shared"))
  func qwen2() throws {
    let tokenizer = try FolderTests.tokenizer(Files.shared.appending(path: "tokenizers/qwen2"))
    #expect(tokenizer.vocabularySize == 151_646)
    try Self.check(tokenizer, "qwen2")
  }

  static func check(_ tokenizer: Tokenizer, _ key: String) throws {
    for line in lines[key] ?? [] {
      #expect(
        try tokenizer.encode(line.text, addSpecialTokens: false) == line.ids, "\(line.text.debugDescription)")
      #expect(
        try tokenizer.encode(line.text, addSpecialTokens: true) == line.special,
        "\(line.text.debugDescription)")
      guard let decoded = line.decoded else { continue }
      let text = try tokenizer.decode(line.special, skipSpecialTokens: false)
      #expect(text.utf8.elementsEqual(decoded.utf8), "\(text.debugDescription) \(decoded.debugDescription)")
    }
  }
}
