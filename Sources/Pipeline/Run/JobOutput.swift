import EspalierCore
import EspalierIO

/// A folder that a job writes outside of its work folder.
public struct JobOutput: ReportPart, Hashable {
  public enum Kind: String, Sendable {
    /// The pruned model, in the files and the format of the original.
    case checkpoint

    /// The output in messages.
    public var name: String {
      switch self {
      case .checkpoint: "pruned model"
      }
    }
  }

  public private(set) var kind = Kind.checkpoint
  public private(set) var path = ""
  /// Bytes of the complete output.
  public private(set) var bytes = 0

  /// Folder in which the output is written until it is complete. It is locked during the whole run and removed at the end.
  public var partial: String { path + ".partial" }

  public init() {}

  public init(_ kind: Kind, path: String, bytes: Int) {
    (self.kind, self.path, self.bytes) = (kind, path, bytes)
  }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("kind", &kind)
    members.value("path", &path)
    members.value("bytes", &bytes)
  }
}

extension JobOutput.Kind: ReportValue {
  var json: JSON { .string(rawValue) }
  init?(json: JSON) { self.init(rawValue: json.string ?? "") }
}

extension Job {
  /// Finds reasons why the outputs cannot be written, before any work.
  ///
  /// - Throws: a usage error.
  func checkOutputs() throws {
    try Self.requireFolder(work, "--work")
    for (index, output) in outputs.enumerated() {
      for path in [output.path, work] where try Folder.contains(checkpoint.folder, path) {
        throw EspalierError.usage(
          "this lies in the folder of the model; choose a place outside of it.", subject: path)
      }
      guard try !Folder.contains(output.path, work) else {
        throw EspalierError.usage(
          "the work folder lies in the output folder, which is written whole at the end; choose another --work or --output.",
          subject: work)
      }
      for other in outputs[..<index]
      where try Folder.contains(output.path, other.path) || Folder.contains(other.path, output.path) {
        throw EspalierError.usage(
          "two stages of the recipe write this folder; leave one of them out.", subject: output.path)
      }
      try Self.requireFolder(output.path, "--output")
    }
    for ((_, stage), output) in zip(recipe.stages(\.output), outputs) {
      try stage.check(existing: output, job: self)
    }
  }

  /// Checks that there is a folder at a path, or nothing.
  private static func requireFolder(_ path: String, _ option: String) throws {
    guard let entry = try Folder.entry(path), !entry.isFolder else { return }
    throw EspalierError.usage(
      "this is a \(entry.isFile ? "file" : "pipe or a device"); \(option) names a folder.", subject: path)
  }
}
