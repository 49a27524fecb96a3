import EspalierCore
import EspalierPipeline
import _StringProcessing

/// Which matrices a stage is for: `targets` minus `ignore`.
///
/// A name is a module's whole name, its last part (`down_proj`), or `re:` and a regular expression that matches from the name's start.
struct TargetFilter: Sendable {
  private let targets: [Name]
  private let ignored: [Name]

  private enum Name: Sendable {
    case exact(String)
    case expression(String)

    var text: String {
      switch self {
      case .exact(let name): name
      case .expression(let text): "re:" + text
      }
    }

    func matches(_ module: String) -> Bool {
      switch self {
      case .exact(let name): module == name || module.hasSuffix("." + name)
      case .expression(let text): (try? Regex(text).prefixMatch(in: module)) != nil
      }
    }
  }

  init(_ parameters: inout Parameters) {
    targets = Self.names(
      "targets",
      "Matrices to prune: module names, their last part, or re:EXPRESSION; none means all matrices of the blocks.",
      &parameters)
    ignored = Self.names("ignore", "Matrices to leave dense, named in the same way.", &parameters)
  }

  func contains(_ module: String) -> Bool {
    (targets.isEmpty || targets.contains { $0.matches(module) }) && !ignored.contains { $0.matches(module) }
  }

  /// - Throws: a usage error for a name that matches no matrix, which is most likely a slip.
  func check(_ model: ModelOutline) throws {
    for name in targets + ignored where !model.matrices.contains(where: { name.matches($0.module) }) {
      let example = model.matrices.first?.module ?? ""
      throw EspalierError.usage(
        "\"\(name.text)\" matches no matrix of this model; names look like \(example).")
    }
  }

  private static func names(_ key: String, _ text: String, _ parameters: inout Parameters) -> [Name] {
    var names: [Name] = []
    for name in parameters.texts(key, default: [], text) {
      guard name.hasPrefix("re:") else {
        names.append(.exact(name))
        continue
      }
      let expression = String(name.dropFirst(3))
      do {
        _ = try Regex(expression)
        names.append(.expression(expression))
      } catch {
        parameters.reject("\(key): \"\(expression)\" is not a regular expression: \(error)")
      }
    }
    return names
  }
}
