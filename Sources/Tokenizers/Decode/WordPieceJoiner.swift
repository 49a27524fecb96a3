/// The decoder `WordPiece`: joins tokens to words separated by spaces.
struct WordPieceJoiner: Sendable {
  /// The prefix of tokens that continue a word.
  let prefix: [UInt8]
  /// Whether spaces before punctuation and contractions are removed.
  let cleansUp: Bool

  private static let contractions: [(String, String)] = [
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
  ]

  func joined(_ tokens: [[UInt8]]) -> [[UInt8]] {
    tokens.enumerated().map { index, token in
      var output = token
      if index > 0 {
        output = token.starts(with: prefix) ? Array(token.dropFirst(prefix.count)) : [0x20] + token
      }
      guard cleansUp, output.contains(0x20) else { return output }
      return Self.contractions.reduce(output) { $0.replacing(Array($1.0.utf8), with: Array($1.1.utf8)) }
    }
  }
}

extension [UInt8] {
  /// Replaces every occurrence from left to right; an empty string never occurs.
  func replacing(_ part: [UInt8], with replacement: [UInt8]) -> [UInt8] {
    guard let first = part.first, contains(first) else { return self }
    var output: [UInt8] = []
    var index = 0
    while index < count {
      if self[index] == first, self[index...].starts(with: part) {
        output += replacement
        index += part.count
      } else {
        output.append(self[index])
        index += 1
      }
    }
    return output
  }
}
