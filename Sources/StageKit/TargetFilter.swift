import EspalierCore
import EspalierPipeline
import Synchronization
import _StringProcessing

/// The matrices that a stage works on: `targets` without `ignore`.
///
/// A name is a module's whole name, its last parts (`down_proj`, `experts.3.gate_proj`), or `re:` and a regular expression that
/// matches from the start of the name.
public struct TargetFilter: Sendable {
  private let targets: Names
  private let ignored: Names

  public init(_ parameters: inout Parameters) {
    targets = Names(
      "targets",
      "Matrices to prune: module names, their last part, or re:EXPRESSION; none means all matrices of the blocks.",
      &parameters)
    ignored = Names("ignore", "Matrices to leave dense, named in the same way.", &parameters)
  }

  public func contains(_ module: String) -> Bool {
    (targets.all.isEmpty || targets.match(module)) && !ignored.match(module)
  }

  /// - Throws: a usage error for a name that matches no matrix, which is most likely a mistake.
  public func check(_ model: ModelOutline) throws {
    for names in [targets, ignored] {
      guard let name = names.unmatched(in: model) else { continue }
      throw EspalierError.usage("\"\(name)\" matches no matrix of this model\(Self.advice(name, model))")
    }
  }

  /// What may have been meant by a name that matches nothing.
  private static func advice(_ name: String, _ model: ModelOutline) -> String {
    let modules = model.matrices.map(\.module)
    func matches(_ text: String) -> Bool {
      (try? Expression(text)).map { expression in modules.contains(where: expression.matches) } ?? false
    }
    if name.hasPrefix("re:") {
      let inside = "re:.*(\(name.dropFirst(3)))"
      return "; expressions match from the start of the name, "
        + (matches(inside) ? "so write \"\(inside)\"." : "as \(modules.first ?? "").")
    }
    if name.contains("*") {
      // As shells match names.
      let expression = "re:" + name.replacing(".", with: "\\.").replacing("*", with: ".*")
      return "; a * has no meaning in a name, "
        + (matches(expression) ? "so write \"\(expression)\"." : "only in an expression (re:...).")
    }
    var (endings, known) = ([String](), Set<String>())
    for module in modules {
      let parts = module.split(separator: ".")
      let ending = parts.suffix(name.split(separator: ".").count).joined(separator: ".")
      if known.insert(ending).inserted { endings.append(ending) }
    }
    if let near = nearest(name, in: endings) { return ". Did you mean \(near)?" }
    let shown = endings.prefix(mostNames).joined(separator: ", ") + (endings.count > mostNames ? ", ..." : "")
    return "; it has \(shown). A name is the whole name of a module, its last parts, or re:EXPRESSION."
  }

  private static let mostNames = 8

  /// One list of names.
  private struct Names: Sendable {
    /// The names as they were given.
    let all: [String]
    private var exact: Set<Substring> = []
    private var expressions: [Expression] = []

    init(_ key: String, _ text: String, _ parameters: inout Parameters) {
      all = parameters.texts(key, default: [], text)
      for name in all {
        guard name.hasPrefix("re:") else {
          exact.insert(name[...])
          continue
        }
        do {
          expressions.append(try Expression(name))
        } catch {
          parameters.reject("\(key): \"\(name.dropFirst(3))\" is not a regular expression: \(error)")
        }
      }
    }

    func match(_ module: String) -> Bool {
      (!exact.isEmpty && endings(module).contains(where: exact.contains))
        || expressions.contains { $0.matches(module) }
    }

    /// The first name that matches no matrix of a model.
    func unmatched(in model: ModelOutline) -> String? {
      var names = exact
      for matrix in model.matrices where !names.isEmpty {
        for ending in endings(matrix.module) { names.remove(ending) }
      }
      let failed = expressions.filter { expression in
        !model.matrices.contains { expression.matches($0.module) }
      }
      return all.first { name in names.contains(name[...]) || failed.contains { $0.text == name } }
    }

    /// The name, and its rest after each dot.
    private func endings(_ module: String) -> some Sequence<Substring> {
      sequence(first: module[...]) { ending in
        ending.firstIndex(of: ".").map { ending[ending.index(after: $0)...] }
      }
    }
  }

  /// A regular expression, compiled once.
  private final class Expression: Sendable {
    let text: String
    private let expression: Mutex<Regex<AnyRegexOutput>>

    /// - Parameter text: begins with `re:`.
    init(_ text: String) throws {
      self.text = text
      expression = Mutex(try Regex(String(text.dropFirst(3))))
    }

    func matches(_ module: String) -> Bool {
      expression.withLock { (try? $0.prefixMatch(in: module)) != nil }
    }
  }
}
