/// The 256 printable characters that represent bytes in a byte-level vocabulary.
///
/// Bytes that are printable in Latin-1 represent themselves; the others are represented by characters from U+0100 on.
enum ByteLevelAlphabet {
  /// The character of each byte, in UTF-8.
  static let characters: [[UInt8]] = {
    var next: UInt32 = 0x100
    return (UInt32(0)..<256).map { byte in
      var value = byte
      if !(0x21...0x7E).contains(byte) && !(0xA1...0xAC).contains(byte) && byte < 0xAE {
        value = next
        next += 1
      }
      var character: [UInt8] = []
      if let scalar = Unicode.Scalar(value) { character.append(scalar) }
      return character
    }
  }()

  private static let bytes: [UInt32: UInt8] = {
    var bytes: [UInt32: UInt8] = [:]
    for (byte, character) in characters.enumerated() {
      bytes[character.span.scalar(at: 0).scalar.value] = UInt8(byte)
    }
    return bytes
  }()

  static func append(_ text: Span<UInt8>, to output: inout [UInt8]) {
    for index in text.indices {
      let byte = text[index]
      if byte > 0x20, byte < 0x7F {
        output.append(byte)
      } else {
        output.append(contentsOf: characters[Int(byte)])
      }
    }
  }

  /// The bytes that a token's characters represent; nil if one of them represents none.
  static func decoded(_ token: [UInt8]) -> [UInt8]? {
    var result: [UInt8] = []
    var index = 0
    while index < token.count {
      let (scalar, width) = token.span.scalar(at: index)
      guard let byte = bytes[scalar.value] else { return nil }
      result.append(byte)
      index += width
    }
    return result
  }
}
