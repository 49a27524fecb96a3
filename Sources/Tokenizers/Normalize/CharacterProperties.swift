/// Properties of single characters as defined by the reference's libraries, which use different versions of Unicode.
///
/// Swift's data is newer than all of them; a character's age tells whether a library knows it.
extension Unicode.Scalar {
  /// Unicode white space, which has not changed between these versions.
  var isSpace: Bool { isASCII ? value == 0x20 || (0x09...0x0D).contains(value) : properties.isWhitespace }

  var isNumber: Bool {
    if isASCII { return (0x30...0x39).contains(value) }
    return switch properties.generalCategory {
    case .decimalNumber, .letterNumber, .otherNumber: true
    default: false
    }
  }

  /// Punctuation of Unicode 8 (the crate `unicode_categories`), and all ASCII symbols.
  var isPunctuation: Bool {
    if isASCII {
      return switch value {
      case 0x21...0x2F, 0x3A...0x40, 0x5B...0x60, 0x7B...0x7E: true
      default: false
      }
    }
    switch properties.generalCategory {
    case .connectorPunctuation, .dashPunctuation, .openPunctuation, .closePunctuation, .initialPunctuation,
      .finalPunctuation, .otherPunctuation:
      return isKnown(toUnicode: 8)
    // Reclassified since: one to a symbol, one to a mark.
    default: return value == 0x166D || value == 0x111C9
    }
  }

  /// A combining mark of Unicode 9 (the crate `unicode-normalization-alignments`).
  var isCombiningMark: Bool {
    guard value >= 0x300 else { return false }
    switch properties.generalCategory {
    // Reclassified since, from punctuation to a mark.
    case .nonspacingMark, .spacingMark, .enclosingMark: return isKnown(toUnicode: 9) && value != 0x111C9
    // Reclassified since, from marks to letters.
    default: return value == 0x1CF2 || value == 0x1CF3
    }
  }

  /// A nonspacing mark of Unicode 8 (the crate `unicode_categories`).
  var isNonspacingMark: Bool {
    guard value >= 0x300 else { return false }
    return switch value {
    // Reclassified since, from nonspacing to spacing marks, and the reverse.
    case 0x1734, 0x1171E: true
    case 0x1885, 0x1886, 0xA9BD, 0x111C9: false
    default: properties.generalCategory == .nonspacingMark && isKnown(toUnicode: 8)
    }
  }

  /// A control, format or private character of Unicode 8 (the crate `unicode_categories`).
  var isControl: Bool {
    if isASCII { return value < 0x20 || value == 0x7F }
    return switch properties.generalCategory {
    case .control, .privateUse: true
    case .format: isKnown(toUnicode: 8)
    default: false
    }
  }

  /// A word character of the crate `regex` (Unicode 16).
  var isWordPart: Bool {
    if isASCII { return value == 0x5F || isNumber || properties.isAlphabetic }
    guard isKnown(toUnicode: 16) else { return false }
    if properties.isAlphabetic || properties.isJoinControl { return true }
    return switch properties.generalCategory {
    case .nonspacingMark, .spacingMark, .enclosingMark, .decimalNumber, .connectorPunctuation: true
    default: false
    }
  }

  /// Whether the character was already assigned in this version of Unicode.
  func isKnown(toUnicode major: Int) -> Bool {
    guard let age = properties.age else { return false }
    return age.major < major || age.major == major && age.minor == 0
  }
}
