import EspalierCore
import EspalierTokenizers
import Foundation
import Testing

/// Token for token the same as the library `tokenizers` 0.23.3; made by tools/make_golden.py.
struct GoldenTests {
  struct Line {
    let text: String
    let ids: [Int32]
    let special: [Int32]
  }

  /// The lines of Tests/Golden/tokenizers.jsonl by tokenizer.
  static let lines: [String: [Line]] = {
    let url = Files.golden.appending(path: "tokenizers.jsonl")
    guard let file = try? String(contentsOf: url, encoding: .utf8) else { return [:] }
    var lines: [String: [Line]] = [:]
    for line in file.utf8.split(separator: UInt8(ascii: "\n")) {
      guard let json = try? JSON(parsing: String(decoding: line, as: UTF8.self)),
        let key = json["tokenizer"]?.string,
        let text = json["text"]?.string, let ids = numbers(json["ids"]),
        let special = numbers(json["ids_special"])
      else { continue }
      lines[key, default: []].append(Line(text: text, ids: ids, special: special))
    }
    return lines
  }()

  static func numbers(_ json: JSON?) -> [Int32]? { json?.array?.compactMap { $0.integer.map(Int32.init) } }

  static let ours = lines.keys.filter { $0.hasPrefix("golden/") || $0 == "demo" }.sorted()
  static let theirs = lines.keys.filter { !ours.contains($0) && $0 != "qwen2" }.sorted()

  @Test func goldenLinesAreThere() {
    #expect(Self.lines.values.reduce(0) { $0 + $1.count } > 6000)
    #expect(Self.ours.count > 40)
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

  /// Published in parts, which `transformers` puts together like this.
  @Test(.enabled(if: Files.exists(Files.shared), "the folder ../shared is not there"))
  func qwen2() throws {
    let folder = Files.shared.appending(path: "tokenizers/qwen2")
    let merges = try String(contentsOf: folder.appending(path: "merges.txt"), encoding: .utf8)
      .split(whereSeparator: \.isNewline).filter { !$0.hasPrefix("#version") }
    let pattern = #"""
      (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
      """#
    let json: JSON = [
      "version": "1.0", "normalizer": ["type": "NFC"],
      "pre_tokenizer": [
        "type": "Sequence",
        "pretokenizers": [
          ["type": "Split", "pattern": ["Regex": .string(pattern)], "behavior": "Isolated", "invert": false],
          ["type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false],
        ],
      ],
      "added_tokens": .array(
        try ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map {
          try JSON(parsing: Sketch.token($0, special: true))
        }),
      "model": [
        "type": "BPE", "vocab": try Files.json(folder.appending(path: "vocab.json")),
        "merges": .array(merges.map { .string(String($0)) }),
      ],
    ]
    let tokenizer = try Tokenizer(json: json)
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
    }
  }
}
