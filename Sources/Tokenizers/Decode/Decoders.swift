import EspalierCore

/// One step from tokens back to text.
enum Decoder: Sendable {
  case byteLevel
  case metaspace(replacement: Unicode.Scalar, dropsFirst: Bool)
  case replace(TextPattern, with: [UInt8])
  case byteFallback
  case fuse
  case strip(Unicode.Scalar, start: Int, stop: Int)
  case wordPiece(WordPieceJoiner)
  case wordEnd([UInt8])

  func apply(to tokens: [[UInt8]]) throws -> [[UInt8]] {
    switch self {
    case .byteLevel:
      let bytes = tokens.flatMap { ByteLevelAlphabet.decoded($0) ?? $0 }
      return [Array(String(decoding: bytes, as: UTF8.self).utf8)]
    case .metaspace(let replacement, let dropsFirst):
      return tokens.enumerated().map { index, token in
        var output: [UInt8] = []
        for scalar in String(decoding: token, as: UTF8.self).unicodeScalars {
          if scalar != replacement {
            output.append(scalar)
          } else if index > 0 || !dropsFirst {
            output.append(0x20)
          }
        }
        return output
      }
    case .replace(let pattern, let content):
      return try tokens.map { token in
        var output: [UInt8] = []
        var end = 0
        try pattern.forEachMatch(in: token.span) { match in
          output += token[end..<match.lowerBound] + content
          end = match.upperBound
          try Limits.checkGrowth(from: token.count, to: output.count)
        }
        return output + token[end...]
      }
    case .byteFallback: return Self.withBytes(tokens)
    case .fuse: return [tokens.flatMap { $0 }]
    case .strip(let scalar, let start, let stop):
      return tokens.map { token in
        var scalars = String(decoding: token, as: UTF8.self).unicodeScalars[...]
        for _ in 0..<min(start, scalars.count) where scalars.first == scalar { scalars.removeFirst() }
        for _ in 0..<min(stop, scalars.count) where scalars.last == scalar { scalars.removeLast() }
        return Array(String(scalars).utf8)
      }
    case .wordPiece(let joiner): return joiner.joined(tokens)
    case .wordEnd(let suffix):
      let last = tokens.count - 1
      return tokens.enumerated().map { index, token in
        token.replacing(suffix, with: index == last ? [] : [0x20])
      }
    }
  }

  /// Replaces runs of `<0xE2>` with the characters they encode, or with one U+FFFD each if they encode none.
  private static func withBytes(_ tokens: [[UInt8]]) -> [[UInt8]] {
    var output: [[UInt8]] = []
    var bytes: [UInt8] = []
    func flush() {
      if String(validating: bytes, as: UTF8.self) == nil {
        output += [[UInt8]](repeating: Array("\u{FFFD}".utf8), count: bytes.count)
      } else if !bytes.isEmpty {
        output.append(bytes)
      }
      bytes = []
    }
    for token in tokens {
      if let byte = byte(token) {
        bytes.append(byte)
      } else {
        flush()
        output.append(token)
      }
    }
    flush()
    return output
  }

  private static func byte(_ token: [UInt8]) -> UInt8? {
    guard token.count == 6, token.starts(with: Array("<0x".utf8)), token[5] == UInt8(ascii: ">") else {
      return nil
    }
    return UInt8(String(decoding: token[3..<5], as: UTF8.self), radix: 16)
  }

  /// Reads the steps that `node` describes and adds them to `steps`.
  static func read(_ node: JSONNode, into steps: inout [Decoder]) throws {
    switch try node.type() {
    case "Sequence":
      for element in try node.required("decoders").elements() { try read(element, into: &steps) }
    case "ByteLevel": steps.append(.byteLevel)
    case "Metaspace":
      let options = try MetaspaceOptions(node)
      steps.append(.metaspace(replacement: options.replacement, dropsFirst: options.scheme != .never))
    case "Replace":
      let content = try node.required("content").content()
      steps.append(.replace(try TextPattern(try node.required("pattern")), with: content))
    case "WordPiece":
      steps.append(
        .wordPiece(
          WordPieceJoiner(
            prefix: try node.required("prefix").content(), cleansUp: try node.required("cleanup").bool())))
    case "BPEDecoder":
      let suffix = try node.required("suffix")
      steps.append(.wordEnd(try suffix.content()))
      if try suffix.content().isEmpty { throw suffix.failure("the suffix is empty.") }
    case "ByteFallback": steps.append(.byteFallback)
    case "Fuse": steps.append(.fuse)
    case "Strip":
      steps.append(
        .strip(
          try node.required("content").character(), start: Int(try node.required("start").id()),
          stop: Int(try node.required("stop").id())))
    case let type: throw node.unsupported("decoder", type)
    }
  }
}
