import EspalierCore

/// Bounds on what a `tokenizer.json` may ask for, far above what any tokenizer needs: a file from a stranger must not
/// be able to fill the memory or to keep the machine busy for hours.
enum Limits {
  /// Bytes of an added token, of a pattern, of what is put into the text.
  static let content = 4096
  /// Steps of one kind, one after the other.
  static let steps = 64
  /// Steps that write each byte as a character of up to two.
  static let byteLevelSteps = 4
  /// Pieces of a template.
  static let pieces = 64

  /// Refuses a text that normalization or decoding has let grow too far.
  static func checkGrowth(from start: Int, to end: Int) throws {
    guard end <= start * 64 + (1 << 14) else {
      throw EspalierError.badInput(
        "The tokenizer lets a text of \(start) bytes grow to more than \(end) bytes; it is not usable.")
    }
  }
}

extension JSONNode {
  /// A string that goes into texts, or is looked for in them.
  func content() throws -> [UInt8] {
    let bytes = try bytes()
    guard bytes.count <= Limits.content else {
      throw failure("the string has \(bytes.count) bytes; at most \(Limits.content) are supported.")
    }
    return bytes
  }
}
