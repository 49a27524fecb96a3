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
/// With `extends: FILE` it has the stages of that recipe, and its own change them: see ``RecipeReader``.
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
    /// The parameters that are not left at their defaults, overrides applied.
    let given: [RecipeValue.Member]

    public var stage: any Stage { role.stage }
  }

  /// The text as it was read.
  public let text: String
  /// Overrides as they were given on the command line.
  public let overrides: [String]
  /// Definitions as they were given on the command line.
  public let definitions: [String]
  public let entries: [Entry]
  /// Absolute paths of the files that describe plug-ins.
  let plugins: [String]
  /// The stages that the recipe could have named.
  let registry: StageRegistry

  /// The stages of one role with their indices, as in `stages(\.matrix)`.
  public func stages<Kind>(_ role: (StageRole) -> Kind?) -> [(index: Int, stage: Kind)] {
    entries.enumerated().compactMap { index, entry in role(entry.role).map { (index, $0) } }
  }

  /// Whether a YAML file is meant as a recipe: it has the key `stages` or `extends`.
  public static func isRecipe(_ path: String) throws -> Bool {
    var definitions = RecipeDefinitions([])
    let text = definitions.marked(try Folder.readText(path, limit: BoundedYAML.mostBytes))
    let keys = try BoundedYAML.document(text, source: path)?.mapping?.keys.compactMap(\.scalar?.string) ?? []
    return keys.contains { $0 == "stages" || $0 == "extends" }
  }

  /// Reads a recipe file.
  ///
  /// - Parameters:
  ///   - overrides: `STAGE.KEY=VALUE`, with a stage's name or id; an empty value sets the parameter to its default.
  ///   - definitions: `NAME=VALUE` for every `${NAME}`.
  /// - Throws: a usage error that lists every mistake with file, line and column.
  public init(
    path: String, overrides: [String] = [], definitions: [String] = [], registry: StageRegistry
  ) throws {
    try self.init(
      text: Self.text(path), source: path, overrides: overrides, definitions: definitions, registry: registry)
  }

  /// - Parameter source: the path of the text; recipes that it extends are found from there.
  public init(
    text: String, source: String, overrides: [String] = [], definitions: [String] = [],
    registry: StageRegistry
  ) throws {
    var reader = RecipeReader(source: source, registry: registry, definitions: definitions)
    entries = try reader.read(text, overrides: overrides)
    self.registry = reader.registry
    plugins = reader.plugins
    self.text = text
    self.overrides = overrides
    self.definitions = definitions
  }

  /// The text of a recipe file.
  static func text(_ path: String) throws -> String {
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
    return text
  }
}

/// Reads a recipe and those that it extends.
///
/// The stages of the extended recipe come first and keep their order. A stage with the id of one of them sets its parameters, or takes
/// its place if it is another stage under that id. Any other stage is added behind those of its role, so that a mask's refiner comes
/// before `emit`.
private struct RecipeReader {
  /// The file that is read now.
  var source: String
  private(set) var registry: StageRegistry
  private(set) var plugins: [String] = []
  var definitions: RecipeDefinitions
  var problems: [RecipeProblem] = []
  /// The file that is read now and those that extend it, the first one first.
  private var chain: [(path: String, identity: String?)] = []
  private static let longestChain = 8

  private struct Draft {
    let name: String
    var id: String
    let position: RecipePosition
    var members: [RecipeValue.Member]
  }

  init(source: String, registry: StageRegistry, definitions: [String]) {
    self.source = source
    self.registry = registry
    self.definitions = RecipeDefinitions(definitions)
  }

  mutating func read(_ text: String, overrides: [String]) throws -> [Recipe.Entry] {
    var drafts = try self.drafts(text)
    for override in overrides { apply(override, to: &drafts) }
    let entries = drafts.compactMap { entry($0) }
    definitions.rejectUnknown()
    problems = definitions.problems + problems
    guard problems.isEmpty else { throw failure() }
    guard !entries.isEmpty else { throw EspalierError.usage("the recipe has no stages.", subject: source) }
    return entries
  }

  /// The stages of a file and of those that it extends.
  private mutating func drafts(_ text: String) throws -> [Draft] {
    chain.append((source, try? Folder.entry(source)?.identity))
    defer { chain.removeLast() }
    let root = try BoundedYAML.document(definitions.marked(text), source: source)
    guard let root, let mapping = root.mapping else {
      let position =
        root.map { RecipePosition($0, source) } ?? RecipePosition(source: source, line: 1, column: 1)
      throw EspalierError.usage(
        "a recipe starts with `stages:` and a list of stages.", subject: "\(position)")
    }
    var base: [Draft]?
    var drafts: [Draft] = []
    for (key, value) in mapping {
      let position = RecipePosition(value, source)
      switch key.scalar?.string {
      case "extends": base = try extended(RecipeValue(value, source: source), position)
      case "plugins": try addPlugins(value)
      case "stages":
        guard let sequence = value.sequence else {
          problems.append(RecipeProblem(position, "stages must be a list."))
          continue
        }
        drafts = sequence.compactMap { draft($0) }
      default:
        let name = RecipeDefinitions.unmarked(key.scalar?.string ?? "?")
        problems.append(
          RecipeProblem(
            RecipePosition(key, source), "a recipe has no key \"\(name)\"; it has: extends, stages, plugins.")
        )
      }
    }
    for (index, draft) in drafts.enumerated() where drafts[..<index].contains(where: { $0.id == draft.id }) {
      problems.append(
        RecipeProblem(
          draft.position, "the stage \(draft.id) occurs twice; give one of them an id: of its own."))
    }
    guard var base else { return drafts }
    for draft in drafts { merge(draft, into: &base) }
    return base
  }

  /// The stages of the recipe that this one extends.
  private mutating func extended(_ value: RecipeValue, _ position: RecipePosition) throws -> [Draft] {
    guard let value = definitions.expand(value, at: position) else { return [] }
    guard let name = value.text, !name.isEmpty else {
      throw EspalierError.usage(
        "extends must be the path of a recipe, from the folder of this one, not \(value.shown).",
        subject: "\(position)")
    }
    let path =
      name.hasPrefix("/") || Folder.parent(of: source) == "." ? name : Folder.parent(of: source) + "/" + name
    return try about("\(position)") {
      let text = try Recipe.text(path)
      let identity = try Folder.entry(path)?.identity
      let paths = (chain.map(\.path) + [path]).joined(separator: ", ")
      guard !chain.contains(where: { $0.path == path || $0.identity == identity }) else {
        throw EspalierError.usage("the recipes extend each other in a circle: \(paths).")
      }
      guard chain.count < Self.longestChain else {
        throw EspalierError.usage("more than \(Self.longestChain) recipes extend each other: \(paths).")
      }
      let extending = source
      source = path
      defer { source = extending }
      return try drafts(text)
    }
  }

  /// Changes or adds one stage of an extended recipe.
  private mutating func merge(_ draft: Draft, into drafts: inout [Draft]) {
    if let index = drafts.firstIndex(where: { $0.id == draft.id }) {
      if draft.name == drafts[index].name || draft.id == draft.name {
        drafts[index].members += draft.members
      } else {
        drafts[index] = draft
      }
      return
    }
    guard let rank = registry[draft.name]?.example.rank else {
      let ids = drafts.map(\.id)
      let near = nearest(draft.name, in: ids + registry.names).map { " Did you mean \($0)?" } ?? ""
      problems.append(
        RecipeProblem(
          draft.position,
          "there is no stage \"\(draft.name)\", neither here nor in the recipe that this one extends, which has: \(ids.joined(separator: ", ")).\(near)"
        ))
      return
    }
    let last = drafts.lastIndex { registry[$0.name]?.example.rank ?? .max <= rank }
    drafts.insert(draft, at: last.map { $0 + 1 } ?? 0)
  }

  private mutating func addPlugins(_ node: Node) throws {
    let position = RecipePosition(node, source)
    guard let value = definitions.expand(RecipeValue(node, source: source), at: position) else { return }
    guard let files = value.texts else {
      problems.append(RecipeProblem(position, "plugins must be a list of files that describe plug-ins."))
      return
    }
    let folder = Folder.parent(of: source)
    let paths = files.map { $0.hasPrefix("/") ? $0 : "\(folder)/\($0)" }
    registry = try about("\(position)") { try registry.adding(plugins: paths) }
    plugins += try paths.map(Folder.absolute)
  }

  private mutating func draft(_ node: Node) -> Draft? {
    let position = RecipePosition(node, source)
    if let text = node.scalar?.string {
      guard let name = definitions.expand(.scalar(text, isPlain: true), at: position)?.text else {
        return nil
      }
      return Draft(name: name, id: name, position: position, members: [])
    }
    guard let mapping = node.mapping, mapping.count == 1, let (key, value) = mapping.first,
      let name = (key.scalar?.string).map(RecipeDefinitions.unmarked)
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
        guard let value = definitions.expand(member.value, at: member.position) else { return nil }
        if let text = value.text, !text.isEmpty, !text.contains(where: { "/.= \n\t".contains($0) }) {
          id = text
        } else {
          problems.append(
            RecipeProblem(
              member.position,
              "the id of \(name) must be a word without \"/\", \".\" and \"=\", not \(value.shown)."))
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
    let value = RecipeValue(argument: String(override[override.index(after: equals)...]))
    drafts[index].members.append(.init(key: key, value: value, position: position))
  }

  private mutating func entry(_ draft: Draft) -> Recipe.Entry? {
    guard let descriptor = registry[draft.name] else {
      problems.append(RecipeProblem(draft.position, registry.unknown(draft.name)))
      return nil
    }
    guard let members = effective(draft.members) else { return nil }
    var parameters = Parameters(members, stage: draft.id, position: draft.position)
    let role = descriptor.make(&parameters)
    parameters.rejectUnknown()
    problems += parameters.problems
    return Recipe.Entry(
      id: draft.id, descriptor: descriptor, role: role,
      key: JSON.object(JSONObject(parameters.key)).canonical,
      files: parameters.files, given: members.filter { !$0.value.isNull })
  }

  /// The last value of each key, with what its names stand for; nil if one is not defined. Values that were overridden need no
  /// definitions, and those from the command line have no names.
  private mutating func effective(_ members: [RecipeValue.Member]) -> [RecipeValue.Member]? {
    let last = members.enumerated().filter { index, member in
      !members[(index + 1)...].contains { $0.key == member.key }
    }.map(\.element)
    let expanded = last.compactMap { member -> RecipeValue.Member? in
      guard member.position.isInFile else { return member }
      return definitions.expand(member.value, at: member.position).map {
        RecipeValue.Member(key: member.key, value: $0, position: member.position)
      }
    }
    return expanded.count == last.count ? expanded : nil
  }

  private func failure() -> EspalierError {
    let lines = problems.map { "\($0.position): \($0.message)" }
    return .usage(
      lines.count == 1
        ? lines[0] : "the recipe has \(lines.count) mistakes:\n  " + lines.joined(separator: "\n  "))
  }
}
