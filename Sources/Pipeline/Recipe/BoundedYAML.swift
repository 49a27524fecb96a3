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
      throw EspalierError.usage("the file has \(text.utf8.count) bytes; at most \(mostBytes) are read.")
    }
    // Values are read as text, so no tags need to be resolved. Without an encoding, Yams takes it from the environment.
    guard isShallow(text) else { throw excess }
    guard let root = try Yams.compose(yaml: text, .basic, .default, .utf8) else { return nil }
    var remaining = mostValues
    guard fits(root, depth: 0, &remaining) else { throw excess }
    return root
  }

  /// The root of a document; nil if it is empty.
  ///
  /// - Parameter source: the path of the file, for messages.
  /// - Throws: a usage error with the place of the mistake.
  static func document(_ text: String, source: String) throws -> Node? {
    do {
      return try compose(text)
    } catch let error as EspalierError {
      throw error.about(source)
    } catch {
      throw invalid(error, text, source)
    }
  }

  private static func invalid(_ error: any Error, _ text: String, _ source: String) -> EspalierError {
    var position = RecipePosition(source: source)
    var problem = "\(error)"
    func place(_ mark: Mark) { (position.line, position.column) = (mark.line, mark.column) }
    switch error as? YamlError {
    case .scanner(_, let what, let mark, _), .parser(_, let what, let mark, _),
      .composer(_, let what, let mark, _):
      place(mark)
      problem = what
    case .duplicatedKeysInMapping(let keys, let context):
      place(context.mark)
      problem = "the key \(keys.joined(separator: ", ")) occurs twice"
    case .reader(let what, let offset, _, _):
      let before = text.prefix(offset ?? 0).split(separator: "\n", omittingEmptySubsequences: false)
      (position.line, position.column) = (max(1, before.count), (before.last?.count ?? 0) + 1)
      problem = what
    default: break
    }
    return .usage("this is not valid YAML: \(problem).", subject: "\(position)")
  }

  private static var excess: EspalierError {
    .usage(
      "the file is nested more than \(deepest) deep, or has more than \(mostAliases) aliases or \(mostValues) values, those that aliases repeat included."
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
