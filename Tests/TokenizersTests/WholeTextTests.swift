import EspalierCore
import EspalierTokenizers
import Foundation
import Testing

/// The ids of whole texts against the library `tokenizers` 0.23.3, by their hash; made by
/// tools/make_tokenizer_golden.py.
struct WholeTextTests {
  static let lines = Files.lines("tokenizers-hashes.jsonl")

  static let parts = Files.lines("tokenizers-parts.jsonl")
  static let ours = lines.filter { $0["tokenizer"]?.string?.hasPrefix("golden/") == true }
  static let theirs = lines.filter { $0["tokenizer"]?.string?.hasPrefix("golden/") == false }

  static func names(_ lines: [JSON]) -> [String] {
    Set(lines.compactMap { $0["tokenizer"]?.string }).sorted()
  }

  @Test func goldenLinesAreThere() {
    #expect(Self.parts.count > 50)
    #expect(Self.ours.count > 60)
    #expect(Self.theirs.count > 40)
  }

  /// Normalizers and pre-tokenizers, over every character and over texts that are hard to cut.
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

  /// Tells, behind a normalizer, whether a piece begins with the first character of the text.
  static let first = """
    {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "[,. ]"}, "behavior": "Isolated", "invert": false},
      {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}]}
    """

  @Test(arguments: names(ours))
  func tokenizersOfTheRepository(_ key: String) throws {
    let tokenizer = try Files.tokenizer(
      Files.golden.appending(path: "tokenizers/\(key.dropFirst("golden/".count)).json"))
    for line in Self.ours where line["tokenizer"]?.string == key { try Self.check(tokenizer, line) }
  }

  @Test(
    .enabled(if: Files.exists(Files.shared), "needs ../shared"),
    arguments: names(theirs))
  func publishedTokenizers(_ key: String) throws {
    let tokenizer =
      key == "qwen2"
      ? try FolderTests.tokenizer(Files.shared.appending(path: "tokenizers/qwen2"))
      : try Files.tokenizer(Files.shared.appending(path: key))
    for line in Self.theirs where line["tokenizer"]?.string == key { try Self.check(tokenizer, line) }
  }

  static func check(_ tokenizer: Tokenizer, _ line: JSON) throws {
    guard let texts = try texts(line) else { return }
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

  /// The texts of a line; nil where they are not there, or take too long in a debug build.
  private static func texts(_ line: JSON) throws -> [[UInt8]]? {
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
      let bytes = try #require(line["bytes"]?.integer)
      guard Files.exists(url),
        bytes <= 100_000 || ProcessInfo.processInfo.environment["ESPALIER_WHOLE"] != nil
      else { return nil }
      return [Array(try Data(contentsOf: url).prefix(bytes))]
    }
  }

  /// Every character between two letters; of the large blocks of equal characters some only.
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
