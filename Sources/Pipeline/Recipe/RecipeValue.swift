import EspalierCore
import Yams

/// A place in a recipe.
public struct RecipePosition: Sendable, Hashable {
  /// The recipe's path, or `--set ...` for a value from the command line.
  public var source = ""
  public var line = 0
  public var column = 0

  /// False for a value from the command line.
  var isInFile: Bool { line > 0 }
}

extension RecipePosition: CustomStringConvertible {
  public var description: String { isInFile ? "\(source):\(line):\(column)" : source }
}

/// One mistake in a recipe, with its place.
public struct RecipeProblem: Sendable, Hashable {
  public let position: RecipePosition
  public let message: String

  init(_ position: RecipePosition, _ message: String) {
    self.position = position
    self.message = message
  }
}

/// A value in a recipe with positions. Scalars stay text until a parameter says what type they have.
indirect enum RecipeValue: Sendable {
  struct Member: Sendable {
    let key: String
    let value: RecipeValue
    let position: RecipePosition
  }

  /// `isPlain` means without quotes: `60` can be a number, `"60"` cannot.
  case scalar(String, isPlain: Bool)
  case list([RecipeValue])
  case map([Member])

  var isNull: Bool {
    if case .scalar(let text, true) = self { text == "" || text == "~" || text == "null" } else { false }
  }

  var text: String? { if case .scalar(let text, _) = self { text } else { nil } }

  var integer: Int? {
    guard case .scalar(let text, true) = self else { return nil }
    return Int(text.filter { $0 != "_" })
  }

  var number: Double? {
    guard case .scalar(let text, true) = self, let number = Double(text), number.isFinite else { return nil }
    return number
  }

  var flag: Bool? {
    guard case .scalar(let text, true) = self else { return nil }
    return text == "true" ? true : text == "false" ? false : nil
  }

  var texts: [String]? {
    switch self {
    case .list(let values):
      let texts = values.compactMap(\.text)
      return texts.count == values.count ? texts : nil
    case .scalar(let text, _): return [text]
    case .map: return nil
    }
  }

  /// A value from the command line. In brackets it is a list, as in a recipe; everything else is text, so that paths need no quotes.
  init(argument text: String) {
    if text.hasPrefix("["), let node = try? BoundedYAML.compose(text) {
      self.init(node, source: "")
    } else {
      self = .scalar(text, isPlain: true)
    }
  }

  /// The value in a message.
  var shown: String {
    switch self {
    case .scalar(let text, _): "\"\(RecipeDefinitions.unmarked(String(text.prefix(60))))\""
    case .list: "a list"
    case .map: "a group of keys"
    }
  }

  init(_ node: Node, source: String) {
    switch node {
    case .scalar(let scalar):
      self = .scalar(scalar.string, isPlain: scalar.style == .plain || scalar.style == .any)
    case .sequence(let sequence):
      self = .list(sequence.map { RecipeValue($0, source: source) })
    case .mapping(let mapping):
      self = .map(
        mapping.map { pair in
          Member(
            key: RecipeDefinitions.unmarked(pair.key.scalar?.string ?? "?"),
            value: RecipeValue(pair.value, source: source),
            position: RecipePosition(pair.key, source))
        })
    case .alias(let alias):
      self = .scalar("*\(alias.anchor)", isPlain: false)
    }
  }
}

extension RecipePosition {
  init(_ node: Node, _ source: String) {
    self.source = source
    line = node.mark?.line ?? 0
    column = node.mark?.column ?? 0
  }
}
