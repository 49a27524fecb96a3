import EspalierCore
import Yams

/// YAML within bounds that every recipe keeps.
///
/// Yams composes a document whole, and hashes each key with all that it holds, aliases written out: a few lines of nested
/// keys and aliases keep it busy for years. So the text is measured before, and its nodes after.
enum BoundedYAML {
  static let mostBytes = 32 << 10
  private static let mostValues = 10_000
  private static let deepest = 16
  private static let mostAliases = 8

  /// The root of a document; nil where it is empty.
  ///
  /// - Throws: what Yams throws; a usage error where a bound is passed.
  static func compose(_ text: String) throws -> Node? {
    guard text.utf8.count <= mostBytes else {
      throw EspalierError.usage("the recipe has \(text.utf8.count) bytes; at most \(mostBytes) are read.")
    }
    // Values are read as text, so that no tags need be resolved; the encoding must not be the environment's choice.
    guard isShallow(text) else { throw excess }
    guard let root = try Yams.compose(yaml: text, .basic, .default, .utf8) else { return nil }
    var room = mostValues
    guard fits(root, depth: 0, &room) else { throw excess }
    return root
  }

  private static var excess: EspalierError {
    .usage(
      "the recipe is nested more than \(deepest) deep, or has more than \(mostAliases) aliases or \(mostValues) values, those that aliases repeat included."
    )
  }

  /// Whether neither brackets nor indentation can nest much too deep, and few stars can begin an alias.
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
      // Indentation, and the marks with which a list or a key begins inside another on the same line.
      let nests =
        byte == UInt8(ascii: " ") || byte == UInt8(ascii: "?") || byte == UInt8(ascii: ":")
        || (byte == UInt8(ascii: "-") && last != UInt8(ascii: "-"))
      run = nests ? run + 1 : 0
      if open > deepest || run > 2 * deepest || aliases > mostAliases { return false }
      last = byte
    }
    return true
  }

  /// Not in `down.*`, `[a-z]*`, `(ab)*`, `\d*`.
  private static func canStandBeforeAlias(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: ")"), UInt8(ascii: "]"):
      false
    default: true
    }
  }

  private static func fits(_ node: Node, depth: Int, _ room: inout Int) -> Bool {
    room -= 1
    guard room >= 0, depth <= deepest else { return false }
    for child in node.sequence ?? [] where !fits(child, depth: depth + 1, &room) { return false }
    for (key, value) in node.mapping ?? [:]
    where !fits(key, depth: depth + 1, &room) || !fits(value, depth: depth + 1, &room) { return false }
    return true
  }
}
