import EspalierCore
import EspalierIO
import EspalierPipeline

/// A stage that another program computes, as a YAML file describes it.
///
///     name: activationNoise
///     summary: Keeps the weights with the largest |W| times the norm of their input, with some noise.
///     version: 1
///     role: score
///     command: [python3, noise.py]
///     reads: norms
///     parameters:
///       noise: {type: number, default: 0.1, from: 0, to: 1, text: How much noise.}
public struct Plugin: Sendable {
  /// When the stage runs, and what it answers with.
  public enum Role: String, CaseIterable, Sendable {
    /// Makes the first mask of a matrix: answers with scores or a mask.
    case score
    /// Changes a mask.
    case refine
    /// Measures the pruned model.
    case evaluate
  }

  /// What it gets of the inputs of a matrix.
  public enum Reads: String, CaseIterable, Sendable {
    case nothing
    /// The norms and sums of every input.
    case norms
    /// The Gram matrix too.
    case gram
  }

  /// The file that describes it.
  public let path: String
  public let name: String
  public let role: Role
  public let reads: Reads
  /// Whether it answers with new weights too.
  public let fitsWeights: Bool
  /// The program and its arguments. Files that lie beside the description have their whole paths.
  public let command: [String]
  /// Processes that work side by side.
  public let copies: Int
  /// Seconds without a word after which it is taken for hung.
  public let timeout: Double
  /// Bytes of memory that one process takes, as its author says.
  public let memory: Int
  let summary: String
  let version: Int
  let parameters: [PluginParameter]
  /// Files whose content decides the result, by a name for keys; see ``Stage/sourceFiles(of:)``.
  let files: [String: String]

  /// Reads a description.
  ///
  /// - Throws: a usage error with every mistake, or an I/O error.
  public init(path: String) throws {
    self = try Parameters.read(file: path, of: "plug-in") { keys in
      Plugin(path: path, &keys)
    }
    for (_, file) in files.sorted(by: { $0.key < $1.key }) where try Folder.entry(file)?.isFile != true {
      throw EspalierError.usage("there is no file \(file), which the plug-in names.", subject: path)
    }
  }

  private init(path: String, _ keys: inout Parameters) {
    self.path = path
    name = keys.text("name", default: nil, "The stage's name in recipes.")
    summary = keys.text("summary", default: nil, "One sentence for `espalier stages`.")
    version = keys.integer(
      "version", default: nil, "Raised whenever the same inputs would give other results than before.")
    role =
      Role(
        rawValue: keys.word(
          "role", default: nil, of: Role.allCases.map(\.rawValue), "When it runs, and what it answers with."))
      ?? .score
    reads = keys.choice("reads", default: .nothing, "What it gets of the inputs of a matrix.")
    fitsWeights = keys.flag("fitsWeights", default: false, "Whether it answers with new weights too.")
    let words = keys.texts(
      "command", default: [Folder.name(of: path).droppingSuffix(".yaml")],
      "The program and its arguments; files are looked up beside this one.")
    let more = keys.texts("files", default: [], "Further files that decide the result.")
    copies = keys.integer("copies", default: 1, in: 1...256, "Processes that work side by side.")
    timeout = keys.number(
      "timeout", default: 600, in: 0.1...1e7, "Seconds without a word after which it is taken for hung.")
    let size = keys.optionalText("memory", "Memory that one process takes, as 512MiB, for the plan.")
    memory = size.flatMap { ByteSize($0) }?.bytes ?? 0
    if size != nil, memory == 0 { keys.reject("memory must be a size as 512MiB or 2GiB.") }
    parameters = keys.groups("parameters", "What a recipe can set.", PluginParameter.init)
    if name.isEmpty || name.contains(where: { "/.= \n\t".contains($0) }) {
      keys.reject("name must be a word without \"/\", \".\" and \"=\", as a recipe can write it.")
    }
    if words.isEmpty { keys.reject("command has no words.") }
    if fitsWeights, reads != .gram {
      keys.reject("fitsWeights needs `reads: gram`, so that the error of the new weights can be measured.")
    }
    if role == .evaluate, reads != .nothing || fitsWeights {
      keys.reject("reads and fitsWeights are for stages that work on matrices, not for `role: evaluate`.")
    }
    var taken: Set<String> = role == .score ? ["sparsity", "keep", "of", "targets", "ignore"] : []
    taken.insert("id")
    for parameter in parameters where taken.contains(parameter.name) {
      keys.reject("parameters.\(parameter.name): this name has a meaning of its own; choose another.")
    }
    let folder = Folder.parent(of: path)
    var files = ["plug-in description": path]
    command = words.enumerated().map { index, word in
      guard let file = Self.file(word, in: folder, isNamed: word.contains("/")) else { return word }
      files["plug-in command.\(index)"] = file
      return file
    }
    for (index, word) in more.enumerated() {
      files["plug-in files.\(index)"] = Self.file(word, in: folder, isNamed: true)
    }
    self.files = files
  }

  /// The path of a file that a description names; nil for a word that is none, such as an option or a program of the system.
  ///
  /// - Parameter isNamed: whether the word must be a file.
  private static func file(_ word: String, in folder: String, isNamed: Bool) -> String? {
    if word.hasPrefix("/") { return (try? Folder.entry(word)?.isFile) == true || isNamed ? word : nil }
    let path = folder + "/" + word
    return isNamed || (try? Folder.entry(path)?.isFile) == true ? path : nil
  }

  /// The stage for recipes.
  public var descriptor: StageDescriptor {
    StageDescriptor(name: name, summary: summary, revision: version, origin: path) { keys in
      switch role {
      case .score: .matrix(PluginScore(self, &keys))
      case .refine: .matrix(PluginRefiner(self, &keys))
      case .evaluate: .evaluation(PluginEvaluation(self, &keys))
      }
    }
  }

  /// The values of its parameters in a recipe.
  func values(_ keys: inout Parameters) -> JSON {
    .object(JSONObject(parameters.map { (key: $0.name, value: $0.read(&keys)) }))
  }
}

extension String {
  func droppingSuffix(_ suffix: String) -> String {
    hasSuffix(suffix) ? String(dropLast(suffix.count)) : self
  }
}
