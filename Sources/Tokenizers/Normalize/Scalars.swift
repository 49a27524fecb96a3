extension UTF8 {
  /// Byte count of the scalar with this first byte.
  static func width(ofLead byte: UInt8) -> Int {
    byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4
  }
}

extension Span<UInt8> {
  /// The scalar that begins at `index`, and its width; the bytes must be valid UTF-8.
  func scalar(at index: Int) -> (scalar: Unicode.Scalar, width: Int) {
    let lead = UInt32(self[index])
    if lead < 0x80 { return (Unicode.Scalar(UInt8(lead)), 1) }
    let width = UTF8.width(ofLead: self[index])
    var value = lead & (0x7F >> UInt32(width))
    for offset in 1..<width where index + offset < count {
      value = value << 6 | UInt32(self[index + offset] & 0x3F)
    }
    return (Unicode.Scalar(value) ?? "\u{FFFD}", width)
  }

  /// The scalar that ends before `index`, and its width; the bytes must be valid UTF-8.
  func scalar(before index: Int) -> (scalar: Unicode.Scalar, width: Int) {
    var start = index - 1
    while start > 0, self[start] & 0xC0 == 0x80 { start -= 1 }
    return scalar(at: start)
  }

  /// The text with each scalar replaced; the bytes must be valid UTF-8.
  func mappingScalars(_ write: (Unicode.Scalar, inout [UInt8]) -> Void) -> [UInt8] {
    var output: [UInt8] = []
    output.reserveCapacity(count)
    var index = 0
    while index < count {
      let (scalar, width) = scalar(at: index)
      write(scalar, &output)
      index += width
    }
    return output
  }

  func starts(with prefix: [UInt8]) -> Bool {
    guard count >= prefix.count else { return false }
    for index in prefix.indices where self[index] != prefix[index] { return false }
    return true
  }
}

extension [UInt8] {
  mutating func append(_ scalar: Unicode.Scalar) {
    if scalar.isASCII { append(UInt8(scalar.value)) } else { append(contentsOf: scalar.utf8) }
  }

  mutating func append(_ span: Span<UInt8>) {
    reserveCapacity(count + span.count)
    for index in span.indices { append(span[index]) }
  }
}
