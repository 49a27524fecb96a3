import EspalierCore
import Yams

/// Reads YAML within limits on size, depth and aliases.
///
/// Yams hashes each key with everything below it, with aliases expanded: a few lines of nested keys and aliases keep it busy for
/// years. So the text is checked before Yams reads it, and the nodes afterwards.
enum BoundedYAML {
  static let mostBytes = 32 << 10
  private static let mostValues = 10_000
  private static let deepest = 16
  private static let mostAliases = 8

  /// The root of a document; nil if it is empty.
  ///
  /// - Throws: the errors of Yams; a usage error if the document exceeds a limit.
  static func compose(_ text: String) throws -> Node? {
    guard text.utf8.count <= mostBytes else {
      throw EspalierError.usage("the recipe has \(text.utf8.count) bytes; at most \(mostBytes) are read.")
    }
    // Values are read as text, so no tags need to be resolved. Without an encoding, Yams takes it from the environment.
    guard isShallow(text) else { throw excess }
    guard let root = try Yams.compose(yaml: text, .basic, .default, .utf8) else { return nil }
    var remaining = mostValues
    guard fits(root, depth: 0, &remaining) else { throw excess }
    return root
  }

  private static var excess: EspalierError {
    .usage(
      "the recipe is nested more than \(deepest) deep, or has more than \(mostAliases) aliases or \(mostValues) values, those that aliases repeat included."
    )
  }

  /// Whether brackets and indentation are not nested much too deep, and few stars can begin an alias.
  private static func isShallow(_ text: String) -> Bool {
    var (open, run, aliases) = (0, 0, 0)
    var last = UInt8(ascii: "\n")
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "["), UInt8(ascii: "{"): open += 1
      case UInt8(ascii: "]"), UInt8(ascii: "}"): open = max(0, open - 1)
      case UInt8(ascii: "*"): aliases += canStandBeforeAlias(last) ? 1 : 0
      default: break
      }
      // Indentation, and the characters that begin a list or a key inside another on the same line.
      let nests =
        byte == UInt8(ascii: " ") || byte == UInt8(ascii: "?") || byte == UInt8(ascii: ":")
        || (byte == UInt8(ascii: "-") && last != UInt8(ascii: "-"))
      run = nests ? run + 1 : 0
      if open > deepest || run > 2 * deepest || aliases > mostAliases { return false }
      last = byte
    }
    return true
  }

  /// False for the stars in `down.*`, `[a-z]*`, `(ab)*`, `\d*`.
  private static func canStandBeforeAlias(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: ")"), UInt8(ascii: "]"):
      false
    default: true
    }
  }

  private static func fits(_ node: Node, depth: Int, _ remaining: inout Int) -> Bool {
    remaining -= 1
    guard remaining >= 0, depth <= deepest else { return false }
    for child in node.sequence ?? [] where !fits(child, depth: depth + 1, &remaining) { return false }
    for (key, value) in node.mapping ?? [:]
    where !fits(key, depth: depth + 1, &remaining) || !fits(value, depth: depth + 1, &remaining) {
      return false
    }
    return true
  }
}
