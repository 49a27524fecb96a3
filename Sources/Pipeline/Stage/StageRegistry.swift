import EspalierCore
import EspalierIO

/// The stages that a recipe can name.
public struct StageRegistry: Sendable {
  /// In the order in which a pipeline uses them.
  public let stages: [StageDescriptor]
  /// What to write for the names of published methods that are no stages: by name, in lower case.
  public let methods: [String: String]

  /// Reads the description of a plug-in that a recipe names, from the path of its file.
  private let plugin: @Sendable (String) throws -> StageDescriptor

  /// - Parameter plugin: reads the description of a plug-in from the path of its file.
  /// - Precondition: names are unique.
  public init(
    _ stages: [StageDescriptor], methods: [String: String] = [:],
    plugin: @escaping @Sendable (String) throws -> StageDescriptor = { path in
      throw EspalierError.usage("this program runs no plug-ins.", subject: path)
    }
  ) {
    precondition(Set(stages.map(\.name)).count == stages.count, "two stages have the same name")
    self.stages = stages
    self.methods = methods
    self.plugin = plugin
  }

  /// These stages, and plug-ins that recipes name.
  ///
  /// - Parameter plugin: reads the description of a plug-in from the path of its file.
  public func readingPlugins(_ plugin: @escaping @Sendable (String) throws -> StageDescriptor)
    -> StageRegistry
  {
    StageRegistry(stages, methods: methods, plugin: plugin)
  }

  /// These stages and some plug-ins.
  ///
  /// - Parameter files: paths of their descriptions.
  /// - Throws: a usage error if a name is taken or a description cannot be used.
  func adding(plugins files: [String]) throws -> StageRegistry { try adding(files.map(plugin)) }

  /// These stages and more.
  ///
  /// - Throws: a usage error if a name is taken.
  public func adding(_ more: [StageDescriptor]) throws -> StageRegistry {
    var all = stages
    for stage in more {
      if let other = all.first(where: { $0.name == stage.name }) {
        // A plug-in may be named twice, by a folder and by a recipe.
        if let origin = stage.origin, let known = other.origin, try Folder.isSame(origin, known) { continue }
        throw EspalierError.usage(
          "there are two stages with the name \(stage.name), this one and \(other.origin.map { "the one of \($0)" } ?? "one of the program"); rename one of them.",
          subject: stage.origin)
      }
      all.append(stage)
    }
    return StageRegistry(all, methods: methods, plugin: plugin)
  }

  public var names: [String] { stages.map(\.name) }

  public subscript(name: String) -> StageDescriptor? { stages.first { $0.name == name } }

  /// The message for a name that is no stage.
  public func unknown(_ name: String) -> String {
    let word = name.lowercased().filter { $0 != "-" && $0 != "_" }
    if let method = methods[word] { return "there is no stage \"\(name)\"; write \(method)." }
    let near = nearest(name, in: names).map { " Did you mean \($0)?" } ?? ""
    return
      "there is no stage \"\(name)\".\(near) There are: \(names.joined(separator: ", ")). See `espalier stages`."
  }

  /// Stages that a recipe could use, in the words of an error message: `` `- sum` ``, `` one of `- a`, `- b` ``.
  ///
  /// - Parameter isMeant: tells from a stage with its default parameters whether it would do.
  func suggestion(_ isMeant: (StageRole) -> Bool) -> String {
    let names = stages.filter { isMeant($0.example) }.map { "`- \($0.name)`" }
    switch names.count {
    case 0: return "a stage that espalier does not have"
    case 1: return names[0]
    default: return "one of \(names.joined(separator: ", "))"
    }
  }
}
