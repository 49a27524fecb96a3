/// What `Split` and `Replace` search for: fixed bytes or a regular expression.
enum TextPattern: Sendable {
  case literal([UInt8])
  case regular(Pattern)

  /// Reads `{"String": ...}` or `{"Regex": ...}`.
  init(_ node: JSONNode) throws {
    if let literal = node.optional("String") {
      let bytes = try literal.content()
      // The empty pattern matches between any two characters.
      self = bytes.isEmpty ? .regular(try literal.pattern("")) : .literal(bytes)
    } else {
      let regular = try node.required("Regex")
      self = .regular(try regular.pattern(String(decoding: try regular.content(), as: UTF8.self)))
    }
  }

  func forEachMatch(in text: Span<UInt8>, _ body: (Range<Int>) throws -> Void) throws {
    switch self {
    case .regular(let pattern): try pattern.forEachMatch(in: text, body)
    case .literal(let bytes):
      var start = 0
      while start + bytes.count <= text.count {
        if text[start] == bytes[0], text.extracting(start...).starts(with: bytes) {
          try body(start..<start + bytes.count)
          start += bytes.count
        } else {
          start += 1
        }
      }
    }
  }
}

extension JSONNode {
  /// Compiles the pattern of this node.
  func pattern(_ text: String) throws -> Pattern {
    do {
      return try Pattern(text)
    } catch {
      throw failure("the pattern cannot be used: \(error.text).")
    }
  }
}
