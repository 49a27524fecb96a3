import EspalierCore
import EspalierIO
import Yams

/// A recipe file: a list of stages with their parameters.
///
///     stages:
///       - tokenize: {corpus: calibration.txt, samples: 128, length: 2048}
///       - capture
///       - factor
///       - warmStart: {method: wanda, keep: 2, of: 4}
///       - swap
///       - emit
///
/// It may also name plug-ins, as files beside it: `plugins: [noise.yaml]`.
public struct Recipe: Sendable {
  /// One stage of the pipeline, configured.
  public struct Entry: Sendable {
    /// The stage's name, or the `id` that the recipe gives it; unique in the recipe.
    public let id: String
    public let descriptor: StageDescriptor
    /// The stage with its parameters.
    public let role: StageRole
    /// Parameters that go into keys, in canonical order.
    public let key: JSON
    /// Files that the parameters name, by parameter; their content goes into keys.
    public let files: [String: String]

    public var stage: any Stage { role.stage }
  }

  /// The text as it was read.
  public let text: String
  /// Overrides as they were given on the command line.
  public let overrides: [String]
  public let entries: [Entry]
  /// The stages that the recipe could have named.
  let registry: StageRegistry

  /// The stages of one role with their indices, as in `stages(\.matrix)`.
  func stages<Kind>(_ role: (StageRole) -> Kind?) -> [(index: Int, stage: Kind)] {
    entries.enumerated().compactMap { index, entry in role(entry.role).map { (index, $0) } }
  }

  /// Whether a YAML file is meant as a recipe: it has the key `stages`.
  public static func isRecipe(_ path: String) throws -> Bool {
    let text = try Folder.readText(path, limit: BoundedYAML.mostBytes)
    return try BoundedYAML.document(text, source: path)?.mapping?.keys.contains {
      $0.scalar?.string == "stages"
    }
      ?? false
  }

  /// Reads a recipe file.
  ///
  /// - Parameters:
  ///   - overrides: `STAGE.KEY=VALUE`, with a stage's name or id; an empty value sets the parameter to its default.
  /// - Throws: a usage error that lists every mistake with file, line and column.
  public init(path: String, overrides: [String] = [], registry: StageRegistry) throws {
    let bytes: [UInt8]
    do {
      bytes = try Folder.read(path, limit: BoundedYAML.mostBytes)
    } catch let error as EspalierError {
      throw EspalierError(
        error.code == .badInput ? .usage : error.code, "the recipe cannot be read: \(error.message)",
        subject: path)
    }
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw EspalierError.usage("the recipe is not valid UTF-8.", subject: path)
    }
    try self.init(text: text, source: path, overrides: overrides, registry: registry)
  }

  public init(text: String, source: String, overrides: [String] = [], registry: StageRegistry) throws {
    var reader = RecipeReader(source: source, registry: registry)
    entries = try reader.read(text, overrides: overrides)
    self.registry = reader.registry
    self.text = text
    self.overrides = overrides
  }
}

private struct RecipeReader {
  let source: String
  private(set) var registry: StageRegistry
  var problems: [RecipeProblem] = []

  private struct Draft {
    let name: String
    var id: String
    let position: RecipePosition
    var members: [RecipeValue.Member]
  }

  init(source: String, registry: StageRegistry) {
    self.source = source
    self.registry = registry
  }

  mutating func read(_ text: String, overrides: [String]) throws -> [Recipe.Entry] {
    var drafts = try self.drafts(text)
    for (index, draft) in drafts.enumerated() where drafts[..<index].contains(where: { $0.id == draft.id }) {
      problems.append(
        RecipeProblem(
          draft.position, "the stage \(draft.id) occurs twice; give one of them an id: of its own."))
    }
    for override in overrides { apply(override, to: &drafts) }
    let entries = drafts.compactMap { entry($0) }
    guard problems.isEmpty else { throw failure() }
    guard !entries.isEmpty else { throw EspalierError.usage("the recipe has no stages.", subject: source) }
    return entries
  }

  private mutating func drafts(_ text: String) throws -> [Draft] {
    let root = try BoundedYAML.document(text, source: source)
    guard let root, let mapping = root.mapping else {
      let position =
        root.map { RecipePosition($0, source) } ?? RecipePosition(source: source, line: 1, column: 1)
      throw EspalierError.usage(
        "a recipe starts with `stages:` and a list of stages.", subject: "\(position)")
    }
    var drafts: [Draft] = []
    for (key, value) in mapping {
      if key.scalar?.string == "plugins" {
        try addPlugins(value)
        continue
      }
      guard key.scalar?.string == "stages" else {
        problems.append(
          RecipeProblem(
            RecipePosition(key, source),
            "a recipe has no key \"\(key.scalar?.string ?? "?")\"; it has: stages, plugins."))
        continue
      }
      guard let sequence = value.sequence else {
        problems.append(RecipeProblem(RecipePosition(value, source), "stages must be a list."))
        continue
      }
      for node in sequence { if let draft = draft(node) { drafts.append(draft) } }
    }
    return drafts
  }

  private mutating func addPlugins(_ node: Node) throws {
    guard let files = RecipeValue(node, source: source).texts else {
      problems.append(
        RecipeProblem(RecipePosition(node, source), "plugins must be a list of files that describe plug-ins.")
      )
      return
    }
    let folder = Folder.parent(of: source)
    registry = try about("\(RecipePosition(node, source))") {
      try registry.adding(plugins: files.map { $0.hasPrefix("/") ? $0 : "\(folder)/\($0)" })
    }
  }

  private mutating func draft(_ node: Node) -> Draft? {
    let position = RecipePosition(node, source)
    if let name = node.scalar?.string { return Draft(name: name, id: name, position: position, members: []) }
    guard let mapping = node.mapping, mapping.count == 1, let (key, value) = mapping.first,
      let name = key.scalar?.string
    else {
      problems.append(
        RecipeProblem(
          position, "a stage is its name, or its name with parameters: `- swap` or `- swap: {maxSwaps: 100}`."
        ))
      return nil
    }
    switch RecipeValue(value, source: source) {
    case .map(let members):
      var id = name
      if let member = members.last(where: { $0.key == "id" }) {
        // Unit names (`ID/MATRIX`) and `--set ID.KEY=VALUE` are split at these characters.
        if let text = member.value.text, !text.isEmpty, !text.contains(where: { "/.= \n\t".contains($0) }) {
          id = text
        } else {
          problems.append(
            RecipeProblem(
              member.position,
              "the id of \(name) must be a word without \"/\", \".\" and \"=\", not \(member.value.shown)."))
        }
      }
      return Draft(
        name: name, id: id, position: RecipePosition(key, source), members: members.filter { $0.key != "id" })
    case let other where other.isNull:
      return Draft(name: name, id: name, position: RecipePosition(key, source), members: [])
    default:
      problems.append(RecipeProblem(position, "the parameters of \(name) must be keys with values."))
      return nil
    }
  }

  private mutating func apply(_ override: String, to drafts: inout [Draft]) {
    let position = RecipePosition(source: "--set \(override)")
    guard let equals = override.firstIndex(of: "="), let dot = override[..<equals].firstIndex(of: ".") else {
      problems.append(RecipeProblem(position, "write it as STAGE.KEY=VALUE, for example swap.maxSwaps=100."))
      return
    }
    let id = String(override[..<dot])
    let key = String(override[override.index(after: dot)..<equals])
    guard let index = drafts.firstIndex(where: { $0.id == id }) else {
      let ids = drafts.map(\.id)
      let near = nearest(id, in: ids).map { " Did you mean \($0)?" } ?? ""
      problems.append(
        RecipeProblem(
          position, "the recipe has no stage \"\(id)\".\(near) It has: \(ids.joined(separator: ", "))."))
      return
    }
    let text = String(override[override.index(after: equals)...])
    // A value in brackets is a list, as in a recipe. Everything else is text, so that paths need no quotes.
    let value: RecipeValue =
      if text.hasPrefix("["), let node = try? BoundedYAML.compose(text) {
        RecipeValue(node, source: position.source)
      } else { .scalar(text, isPlain: true) }
    drafts[index].members.append(.init(key: key, value: value, position: position))
  }

  private mutating func entry(_ draft: Draft) -> Recipe.Entry? {
    guard let descriptor = registry[draft.name] else {
      problems.append(RecipeProblem(draft.position, registry.unknown(draft.name)))
      return nil
    }
    var parameters = Parameters(draft.members, stage: draft.id, position: draft.position)
    let role = descriptor.make(&parameters)
    parameters.rejectUnknown()
    problems += parameters.problems
    return Recipe.Entry(
      id: draft.id, descriptor: descriptor, role: role,
      key: JSON.object(JSONObject(parameters.key)).canonical,
      files: parameters.files)
  }

  private func failure() -> EspalierError {
    let lines = problems.map { "\($0.position): \($0.message)" }
    return .usage(
      lines.count == 1
        ? lines[0] : "the recipe has \(lines.count) mistakes:\n  " + lines.joined(separator: "\n  "))
  }
}
