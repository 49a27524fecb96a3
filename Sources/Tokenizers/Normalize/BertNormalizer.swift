/// BERT's normalization.
extension Normalizer {
  /// Reads the steps of `BertNormalizer`, and adds them to `steps`.
  static func readBert(_ node: JSONNode, into steps: inout [Normalizer]) throws {
    let lowercase = try node.required("lowercase").bool()
    if try node.required("clean_text").bool() { steps.append(.clean) }
    if try node.required("handle_chinese_chars").bool() { steps.append(.spaceIdeographs) }
    if try node.optional("strip_accents")?.bool() ?? lowercase {
      steps += [.form(.nfd), .stripNonspacingMarks]
    }
    if lowercase { steps.append(.lowercase) }
  }

  /// Removes control characters and replaces white space with spaces.
  static func cleaned(_ text: Span<UInt8>) -> [UInt8] {
    text.mappingScalars { scalar, output in
      switch scalar {
      case "\t", "\n", "\r": output.append(0x20)
      case "\u{0}", "\u{FFFD}": break
      case _ where scalar.isControl: break
      case _ where scalar.isSpace: output.append(0x20)
      default: output.append(scalar)
      }
    }
  }

  /// Puts spaces around Chinese characters, so that each becomes a word.
  static func withSpacedIdeographs(_ text: Span<UInt8>) -> [UInt8] {
    text.mappingScalars { scalar, output in
      guard isIdeograph(scalar) else { return output.append(scalar) }
      output.append(0x20)
      output.append(scalar)
      output.append(0x20)
    }
  }

  static func withoutNonspacingMarks(_ text: Span<UInt8>) -> [UInt8] {
    text.mappingScalars { scalar, output in
      if !scalar.isNonspacingMark { output.append(scalar) }
    }
  }

  /// The blocks in BERT's list, which lacks some of today's ideographs.
  private static func isIdeograph(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0..<0x3400: false
    case 0x3400...0x4DBF, 0x4E00...0x9FFF, 0xF900...0xFAFF, 0x20000...0x2A6DF, 0x2A700...0x2B81F,
      0x2B920...0x2CEAF, 0x2F800...0x2FA1F:
      true
    default: false
    }
  }
}
