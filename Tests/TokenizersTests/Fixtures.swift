import EspalierCore
import EspalierTokenizers
import Foundation

/// Paths of the tests' files.
enum Files {
  static let repository = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()
  static let golden = repository.appending(path: "Tests/Golden")
  /// Published models and tokenizers; not a part of the repository.
  static let shared = repository.deletingLastPathComponent().appending(path: "shared/data")

  static func exists(_ url: URL) -> Bool { FileManager.default.fileExists(atPath: url.path) }

  static func json(_ url: URL) throws -> JSON {
    let bytes = [UInt8](try Data(contentsOf: url))
    return try JSON(parsing: bytes.span.bytes)
  }

  /// The values of a file of JSON lines among the golden values.
  static func lines(_ name: String) -> [JSON] {
    guard let file = try? Data(contentsOf: golden.appending(path: name)) else { return [] }
    return file.split(separator: UInt8(ascii: "\n")).compactMap {
      try? JSON(parsing: String(decoding: $0, as: UTF8.self))
    }
  }

  static func tokenizer(_ url: URL) throws -> Tokenizer { try Tokenizer(json: json(url)) }
}

/// A small `tokenizer.json`, as text, whose parts can be replaced.
struct Sketch {
  var model = #"{"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}, "merges": ["a b"]}"#
  var normalizer = "null"
  var preTokenizer = "null"
  var postProcessor = "null"
  var decoder = "null"
  var addedTokens = "[]"

  var text: String {
    """
    {"version": "1.0", "truncation": null, "padding": null, "added_tokens": \(addedTokens),
     "normalizer": \(normalizer), "pre_tokenizer": \(preTokenizer), "post_processor": \(postProcessor),
     "decoder": \(decoder), "model": \(model)}
    """
  }

  func tokenizer() throws -> Tokenizer { try Tokenizer(json: JSON(parsing: text)) }

  /// A byte-level model without merges: a token for each byte, with the byte's value as id.
  static func bytes() -> Sketch {
    var sketch = Sketch()
    var members: [(key: String, value: JSON)] = []
    var next: UInt32 = 0x100
    for byte in UInt32(0)..<256 {
      let prints = (0x21...0x7E).contains(byte) || (0xA1...0xAC).contains(byte) || byte >= 0xAE
      members.append((String(Unicode.Scalar(prints ? byte : next)!), .integer(Int(byte))))
      if !prints { next += 1 }
    }
    sketch.model =
      JSON.object(
        JSONObject([("type", "BPE"), ("vocab", .object(JSONObject(members))), ("merges", [])])
      ).text
    sketch.preTokenizer = #"{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}"#
    sketch.decoder = #"{"type": "ByteLevel"}"#
    return sketch
  }

  /// A token for each byte as it ends a word, and one for each other byte: the ids show where words end.
  static func cuts(normalizer: String = "null", preTokenizer: String? = nil) -> Sketch {
    var sketch = Sketch()
    let prints = (UInt32(0)..<256).filter {
      (0x21...0x7E).contains($0) || (0xA1...0xAC).contains($0) || $0 >= 0xAE
    }
    let alphabet = (prints + (0x100..<0x100 + UInt32(256 - prints.count))).compactMap(Unicode.Scalar.init)
    let tokens = alphabet.map { String($0) } + alphabet.map { "\($0)|" }
    let members = zip(tokens, 0...).map { (key: $0, value: JSON.integer($1)) }
    sketch.model =
      JSON.object(
        JSONObject([
          ("type", "BPE"), ("vocab", .object(JSONObject(members))), ("merges", []),
          ("end_of_word_suffix", "|"),
        ])
      ).text
    let bytes = #"{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}"#
    sketch.normalizer = normalizer
    sketch.preTokenizer =
      preTokenizer.map { #"{"type": "Sequence", "pretokenizers": [\#($0), \#(bytes)]}"# } ?? bytes
    return sketch
  }

  /// The JSON of an added token.
  static func token(
    _ content: String, id: Int = 0, normalized: Bool = false, special: Bool = false, left: Bool = false,
    right: Bool = false, word: Bool = false
  ) -> String {
    """
    {"id": \(id), "content": \(JSON.string(content).text), "single_word": \(word), "lstrip": \(left),
     "rstrip": \(right), "normalized": \(normalized), "special": \(special)}
    """
  }
}

/// SplitMix64: the same numbers for the same seed, everywhere.
struct Seeded: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }

  /// A text of characters of many scripts, including spaces and controls.
  mutating func text(_ count: Int) -> String {
    let blocks: [ClosedRange<UInt32>] = [
      0x20...0x7E, 0x61...0x7A, 0x20...0x20, 0x0...0x2FF, 0x300...0x36F, 0x370...0x6FF, 0x900...0x97F,
      0x1100...0x11FF,
      0x2000...0x206F, 0x3000...0x30FF, 0x4E00...0x9FFF, 0xAC00...0xD7A3, 0xF900...0xFFFD, 0x1F300...0x1FAFF,
      0x10000...0x10FFFF,
    ]
    var scalars = String.UnicodeScalarView()
    for _ in 0..<count {
      let block = blocks[Int.random(in: 0..<blocks.count, using: &self)]
      if let scalar = Unicode.Scalar(UInt32.random(in: block, using: &self)) { scalars.append(scalar) }
    }
    return String(scalars)
  }
}
