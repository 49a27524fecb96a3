import EspalierCore

/// What `${NAME}` stands for in a recipe, from `--define NAME=VALUE`; `$${` stands for the characters `${`.
///
/// YAML would take the braces in `{corpus: ${TEXT}}` for its own. So ``marked(_:)`` puts characters of the private use area in their
/// place before the text is parsed, one for one, which leaves all positions as they are; ``expand(_:at:)`` reads them.
struct RecipeDefinitions {
  private static let open: Unicode.Scalar = "\u{E000}"
  private static let close: Unicode.Scalar = "\u{E001}"

  private var values: [String: String] = [:]
  /// Names that occur in the text.
  private var known: Set<String> = []
  private(set) var problems: [RecipeProblem] = []

  /// - Parameter arguments: each `NAME=VALUE`; of two with the same name the last one counts.
  init(_ arguments: [String]) {
    for argument in arguments {
      let parts = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      guard parts.count == 2, Self.isName(parts[0].unicodeScalars) else {
        problems.append(
          RecipeProblem(
            RecipePosition(source: "--define \(argument)"),
            "write it as NAME=VALUE; a name has letters, digits and \"_\"."))
        continue
      }
      values[String(parts[0])] = String(parts[1])
    }
  }

  /// The text with marks for the braces of `${NAME}` and `$${NAME}`.
  mutating func marked(_ text: String) -> String {
    var scalars = Array(text.unicodeScalars)
    var place = 0
    while let dollar = scalars[place...].firstIndex(of: "$") {
      place = dollar + 1
      guard place < scalars.count, scalars[place] == "{" else { continue }
      let name = scalars[(place + 1)...].prefix(while: Self.canFollow)
      guard Self.isName(name), name.endIndex < scalars.count, scalars[name.endIndex] == "}" else { continue }
      (scalars[place], scalars[name.endIndex]) = (Self.open, Self.close)
      if dollar == 0 || scalars[dollar - 1] != "$" { known.insert(String(String.UnicodeScalarView(name))) }
      place = name.endIndex + 1
    }
    return String(String.UnicodeScalarView(scalars))
  }

  /// A text with its braces again.
  static func unmarked(_ text: String) -> String {
    guard text.unicodeScalars.contains(open) else { return text }
    return String(
      String.UnicodeScalarView(text.unicodeScalars.map { $0 == open ? "{" : $0 == close ? "}" : $0 }))
  }

  /// A value with all names replaced; nil, and a problem, if one is not defined. A scalar that is one name and nothing else is read as
  /// `--set` reads its values.
  mutating func expand(_ value: RecipeValue, at position: RecipePosition) -> RecipeValue? {
    let problemCount = problems.count
    let expanded = replaced(value, at: position)
    return problems.count == problemCount ? expanded : nil
  }

  private mutating func replaced(_ value: RecipeValue, at position: RecipePosition) -> RecipeValue {
    switch value {
    case .scalar(let text, let isPlain):
      guard text.unicodeScalars.contains("$") else { return value }
      if let name = Self.onlyName(text), let given = values[name] { return RecipeValue(argument: given) }
      var hasNames = false
      let expanded = expand(text, at: position, &hasNames)
      return .scalar(expanded, isPlain: isPlain || hasNames)
    case .list(let values): return .list(values.map { replaced($0, at: position) })
    case .map(let members):
      return .map(
        members.map {
          RecipeValue.Member(
            key: $0.key, value: replaced($0.value, at: $0.position), position: $0.position)
        })
    }
  }

  /// Records each definition that no recipe asks for.
  mutating func rejectUnknown() {
    for name in values.keys.sorted() where !known.contains(name) {
      let has =
        known.isEmpty ? "it has none" : "it has: \(known.sorted().map { "${\($0)}" }.joined(separator: ", "))"
      problems.append(
        RecipeProblem(RecipePosition(source: "--define \(name)"), "the recipe has no ${\(name)}; \(has)."))
    }
  }

  private static func onlyName(_ text: String) -> String? {
    let scalars = Array(text.unicodeScalars)
    guard scalars.count > 3, scalars[0] == "$", scalars[1] == open,
      scalars.firstIndex(of: close) == scalars.count - 1
    else { return nil }
    return String(String.UnicodeScalarView(scalars[2..<scalars.count - 1]))
  }

  private mutating func expand(_ text: String, at position: RecipePosition, _ hasNames: inout Bool) -> String
  {
    var rest = text.unicodeScalars[...]
    var expanded = String.UnicodeScalarView()
    func starts(_ scalars: Unicode.Scalar...) -> Bool { rest.starts(with: scalars) }
    while let scalar = rest.first {
      if starts("$", "$", Self.open) || starts("$", "$", "{") {
        expanded.append(contentsOf: "${".unicodeScalars)
        rest = rest.dropFirst(3)
      } else if starts("$", Self.open) {
        let name = String(rest.dropFirst(2).prefix { $0 != Self.close })
        expanded.append(contentsOf: value(name, at: position).unicodeScalars)
        hasNames = true
        rest = rest.drop { $0 != Self.close }.dropFirst()
      } else if starts("$", "{") {
        problems.append(
          RecipeProblem(
            position,
            "write ${NAME} with a name of letters, digits and \"_\"; for the characters \"${\" write $${."))
        return text
      } else {
        expanded.append(scalar == Self.close ? "}" : scalar)
        rest = rest.dropFirst()
      }
    }
    return String(expanded)
  }

  private mutating func value(_ name: String, at position: RecipePosition) -> String {
    if let value = values[name] { return value }
    let near = nearest(name, in: values.keys.sorted()).map { " Did you mean ${\($0)}?" } ?? ""
    problems.append(
      RecipeProblem(position, "${\(name)} is not defined; give --define \(name)=VALUE.\(near)"))
    return ""
  }

  private static func isName(_ text: some Collection<Unicode.Scalar>) -> Bool {
    guard let first = text.first, text.allSatisfy(canFollow) else { return false }
    return !("0"..."9").contains(first)
  }

  private static func canFollow(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar {
    case "a"..."z", "A"..."Z", "0"..."9", "_": true
    default: false
    }
  }
}
