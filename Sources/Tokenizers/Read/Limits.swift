import EspalierCore

/// Limits on what a `tokenizer.json` may ask for, far above what any real tokenizer needs, so that a hostile file can neither fill the
/// memory nor run for hours.
enum Limits {
  /// Bytes of an added token, a pattern or an inserted text.
  static let content = 4096
  /// Consecutive steps of one kind.
  static let steps = 64
  /// Steps that write each byte as a character of up to two bytes.
  static let byteLevelSteps = 4
  /// Pieces of a template.
  static let pieces = 64

  /// Throws if normalization or decoding has made a text too long.
  static func checkGrowth(from start: Int, to end: Int) throws {
    guard end <= start * 64 + (1 << 14) else {
      throw EspalierError.badInput(
        "The tokenizer lets a text of \(start) bytes grow to \(end) bytes; it is not usable.")
    }
  }
}

extension JSONNode {
  /// A string that is inserted into texts or searched for in them.
  func content() throws -> [UInt8] {
    let bytes = try bytes()
    guard bytes.count <= Limits.content else {
      throw failure("the string has \(bytes.count) bytes; at most \(Limits.content) are supported.")
    }
    return bytes
  }
}
