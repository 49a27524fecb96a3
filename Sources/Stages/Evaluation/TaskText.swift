import EspalierCore

/// Texts as the EleutherAI harness handles them: what Python's `str` does, by Unicode scalars.
enum TaskText {
  /// What Python takes for white space.
  static func isSpace(_ scalar: Unicode.Scalar) -> Bool {
    scalar.properties.isWhitespace || (0x1C...0x1F).contains(scalar.value)
  }

  /// Without white space at both ends.
  static func stripped(_ text: String) -> String {
    let scalars = Array(text.unicodeScalars)
    guard let first = scalars.firstIndex(where: { !isSpace($0) }),
      let last = scalars.lastIndex(where: { !isSpace($0) })
    else { return "" }
    return string(scalars[first...last])
  }

  /// The text without the white space at its end, and that white space.
  static func splitEnd(_ text: String) -> (text: String, spaces: String) {
    let scalars = Array(text.unicodeScalars)
    let end = scalars.lastIndex { !isSpace($0) }.map { $0 + 1 } ?? 0
    return (string(scalars[..<end]), string(scalars[end...]))
  }

  static func string(_ scalars: some Sequence<Unicode.Scalar>) -> String {
    var view = String.UnicodeScalarView()
    view.append(contentsOf: scalars)
    return String(view)
  }

  /// Replaces every occurrence, from left to right.
  static func replacing(_ text: String, _ pattern: String, with replacement: String) -> String {
    let (bytes, pattern) = (Array(text.utf8), Array(pattern.utf8))
    guard let start = pattern.first, bytes.count >= pattern.count else { return text }
    var result: [UInt8] = []
    var index = 0
    while index < bytes.count {
      if bytes[index] == start, bytes[index...].starts(with: pattern) {
        result += replacement.utf8
        index += pattern.count
      } else {
        result.append(bytes[index])
        index += 1
      }
    }
    return String(decoding: result, as: UTF8.self)
  }

  /// Changes what is enclosed by two characters, from left to right. An opening one without a closing one stays.
  ///
  /// - Parameter change: gives what replaces the enclosed text with its ends; nil to leave this opening character alone.
  static func replacingEnclosed(
    _ text: String, _ open: Unicode.Scalar, _ close: Unicode.Scalar,
    _ change: (ArraySlice<Unicode.Scalar>) -> [Unicode.Scalar]?
  ) -> String {
    let scalars = Array(text.unicodeScalars)
    var result: [Unicode.Scalar] = []
    var index = 0
    while index < scalars.count {
      if scalars[index] == open, let end = scalars[(index + 1)...].firstIndex(of: close),
        let changed = change(scalars[index + 1..<end])
      {
        result += changed
        index = end + 1
      } else {
        result.append(scalars[index])
        index += 1
      }
    }
    return string(result)
  }

  /// Removes what is left of the markup of WikiHow in HellaSwag.
  static func withoutMarkup(_ text: String) -> String {
    let titled = replacing(stripped(text), " [title]", with: ". ")
    // In Python, a dot of a pattern does not match the end of a line.
    let plain = replacingEnclosed(titled, "[", "]") { $0.contains("\n") ? nil : [] }
    return replacing(plain, "  ", with: " ")
  }

  /// WikiText as it was before it was split into words.
  static func withoutSplits(_ page: String) -> String {
    var text = replacing(page, "s '", with: "s'")
    text = withoutDigitMark(text)
    for (pattern, replacement) in [
      (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."), (" : ", ": "), (" ; ", "; "), (" . ", ". "),
      (" ! ", "! "),
      (" ? ", "? "), (" , ", ", "),
    ] { text = replacing(text, pattern, with: replacement) }
    for (open, close) in [("(", ")"), ("[", "]"), ("{", "}"), ("\"", "\""), ("'", "'")]
      as [(Unicode.Scalar, Unicode.Scalar)]
    {
      text = replacingEnclosed(text, open, close) {
        [open] + Array(stripped(string($0)).unicodeScalars) + [close]
      }
    }
    for (pattern, replacement) in [
      ("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" \u{B0} ", "\u{B0}"), (" \n", "\n"),
      ("\n ", "\n"),
      (" N ", " 1 "), (" 's", "'s"),
    ] { text = replacing(text, pattern, with: replacement) }
    return text
  }

  /// The harness replaces `/' 5/` by the pattern itself.
  private static func withoutDigitMark(_ text: String) -> String {
    (0...9).reduce(text) { replacing($0, "/' \($1)/", with: "/'[0-9]/") }
  }

  /// The number of parts between runs of white space.
  static func wordCount(_ text: String) -> Int {
    var count = 1
    var wasSpace = false
    for scalar in text.unicodeScalars {
      let isSpace = isSpace(scalar)
      if isSpace, !wasSpace { count += 1 }
      wasSpace = isSpace
    }
    return count
  }

  /// A filter of a template.
  ///
  /// - Returns: nil if there is no such filter, or it does not know the text.
  static func filtered(_ text: String, _ filter: Substring) -> String? {
    let scalars = Array(text.unicodeScalars)
    let words = text.utf8.split(separator: 0x20, omittingEmptySubsequences: false)
    switch filter {
    case "strip": return stripped(text)
    case "dropLast": return string(scalars.dropLast())
    case "capitalize":
      return (scalars.first?.properties.titlecaseMapping ?? "") + string(scalars.dropFirst()).lowercased()
    case "lowerFirst": return (scalars.first?.properties.lowercaseMapping ?? "") + string(scalars.dropFirst())
    case "connector": return ["cause": "because", "effect": "therefore"][text]
    case "spaces": return replacing(text, "_", with: " ")
    case "lastWord": return words.last.map { String(decoding: $0, as: UTF8.self) }
    case "butLastWord":
      return String(decoding: Array(words.dropLast().joined(separator: [0x20])), as: UTF8.self)
    default: return nil
    }
  }
}
