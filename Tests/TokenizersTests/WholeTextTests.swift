import EspalierCore
import EspalierTokenizers
import Foundation
import Testing

/// The ids of whole texts against the library `tokenizers` 0.23.3, by their hash; made by
/// tools/make_tokenizer_golden.py.
struct WholeTextTests {
  static let lines = Files.lines("tokenizers-hashes.jsonl")

  static let parts = Files.lines("tokenizers-parts.jsonl")
  /// Lines that need nothing outside of the repository.
  static let ours = lines.filter { isOurs($0) && !isFile($0) }
  /// Published tokenizers, and the beginnings of published texts.
  static let published = lines.filter { (!isOurs($0) || isFile($0)) && !isLarge($0) }
  /// Whole published texts, which take long in a debug build.
  static let large = lines.filter(isLarge)

  static func isOurs(_ line: JSON) -> Bool { line["tokenizer"]?.string?.hasPrefix("golden/") == true }
  static func isFile(_ line: JSON) -> Bool { line["bytes"] != nil }
  static func isLarge(_ line: JSON) -> Bool { line["bytes"]?.integer ?? 0 > 100_000 }

  static func names(_ lines: [JSON]) -> [String] {
    Set(lines.compactMap { $0["tokenizer"]?.string }).sorted()
  }

  @Test func goldenLinesAreThere() {
    #expect(Self.parts.count > 50)
    #expect(Self.lines.count(where: Self.isOurs) > 60)
    #expect(Self.lines.count { !Self.isOurs($0) } > 40)
    #expect(Self.ours.count + Self.published.count + Self.large.count == Self.lines.count)
  }

  /// Normalizers and pre-tokenizers, over every character and over texts that are hard to split.
  @Test(arguments: parts.indices)
  func normalizersAndPreTokenizers(_ index: Int) throws {
    let line = Self.parts[index]
    let part = try #require(line["part"]).text
    let sketch =
      switch line["kind"]?.string {
      case "normalizer": Sketch.cuts(normalizer: part)
      case "first": Sketch.cuts(normalizer: part, preTokenizer: Self.first)
      default: Sketch.cuts(preTokenizer: part)
      }
    try Self.check(sketch.tokenizer(), line)
  }

  /// A pre-tokenizer that shows whether a piece begins with the first character of the text, even after a normalizer.
  static let first = """
    {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "[,. ]"}, "behavior": "Isolated", "invert": false},
      {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}]}
    """

  @Test(arguments: names(ours))
  func tokenizersOfTheRepository(_ key: String) throws {
    try Self.check(Self.ours, key)
  }

  @Test(
    .enabled(if: Files.exists(Files.shared), "needs ../shared"),
    arguments: names(published))
  func publishedTokenizers(_ key: String) throws { try Self.check(Self.published, key) }

  @Test(
    .enabled(if: Files.exists(Files.shared), "needs ../shared"),
    .enabled(if: ProcessInfo.processInfo.environment["ESPALIER_WHOLE"] != nil, "needs ESPALIER_WHOLE=1"),
    arguments: names(large))
  func wholePublishedTexts(_ key: String) throws { try Self.check(Self.large, key) }

  /// Checks the lines of one tokenizer.
  static func check(_ lines: [JSON], _ key: String) throws {
    let tokenizer =
      if key.hasPrefix("golden/") {
        try Files.tokenizer(
          Files.golden.appending(path: "tokenizers/\(key.dropFirst("golden/".count)).json"))
      } else if key == "qwen2" {
        try FolderTests.tokenizer(Files.shared.appending(path: "tokenizers/qwen2"))
      } else {
        try Files.tokenizer(Files.shared.appending(path: key))
      }
    for line in lines where line["tokenizer"]?.string == key { try check(tokenizer, line) }
  }

  static func check(_ tokenizer: Tokenizer, _ line: JSON) throws {
    let texts = try texts(line)
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    var count = 0
    for text in texts {
      let ids = try tokenizer.encode(text, addSpecialTokens: true)
      for id in ids + [Int32(ids.count)] { hash = (hash ^ UInt64(id)) &* 0x100_0000_01B3 }
      count += ids.count
    }
    let hexadecimal = String(hash, radix: 16)
    let name =
      "\(line["tokenizer"]?.text ?? line["part"]?.text.prefix(60).description ?? "") \(line["text"]?.text ?? "")"
    #expect(count == line["count"]?.integer, "\(name)")
    #expect(
      String(repeating: "0", count: 16 - hexadecimal.count) + hexadecimal == line["hash"]?.string, "\(name)")
  }

  /// The texts of a line.
  private static func texts(_ line: JSON) throws -> [[UInt8]] {
    let name = try #require(line["text"]?.string)
    switch name {
    case "every": return [everyCharacter()]
    case "beginnings":
      return stride(from: UInt32(0), to: 0x10000, by: 13).compactMap(Unicode.Scalar.init).map {
        Array((String($0) + ($0.value % 2 == 1 ? "\u{301},b. c" : ",b. c")).utf8)
      }
    case "torture":
      let texts = try #require(try Files.json(Files.golden.appending(path: "tokenizers-torture.json")).array)
      return texts.compactMap { $0.string.map { Array($0.utf8) } }
    case "long":
      let part = try #require(line["repeated"]?.string)
      return [Array(repeatElement(Array(part.utf8), count: 1000).joined())]
    default:
      let url = Files.shared.appending(path: name)
      return [Array(try Data(contentsOf: url).prefix(try #require(line["bytes"]?.integer)))]
    }
  }

  /// Every character between two letters; of large blocks of similar characters only some.
  private static func everyCharacter() -> [UInt8] {
    var output: [UInt8] = []
    for value in UInt32(0)..<0x110000 {
      guard let scalar = Unicode.Scalar(value) else { continue }
      let isThin =
        switch value {
        case 0x3400..<0xA000, 0xAC00..<0xD7A4, 0xE000..<0xF900, 0x17000..<0x18D00: true
        case 0xE0000..<0xE0200: false
        default: value >= 0x20000
        }
      if isThin, value % 61 != 0 { continue }
      if !output.isEmpty { output.append(UInt8(ascii: " ")) }
      output.append(UInt8(ascii: "a"))
      output.append(contentsOf: scalar.utf8)
      output.append(UInt8(ascii: "b"))
    }
    return output
  }
}
