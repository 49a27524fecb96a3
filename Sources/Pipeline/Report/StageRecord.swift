import EspalierCore
import EspalierIO

/// A stage of a recipe as the history of a run has it.
public struct StageRecord: ReportPart {
  /// Its id in the recipe.
  public private(set) var id = ""
  /// The name of the stage.
  public private(set) var name = ""
  /// What it says of itself in a sentence.
  public private(set) var summary: String?
  /// The parameters that decide results, with defaults filled in.
  public private(set) var parameters = JSONObject()
  /// The last components of the paths of files that parameters name, by parameter.
  public private(set) var files = JSONObject()

  /// The names of its files in one line.
  public var fileNames: String {
    let names = files.members.compactMap(\.value.string)
    let rest = names.count - 3
    return names.prefix(3).joined(separator: ", ") + (rest > 0 ? " and \(rest) more" : "")
  }

  /// What it does to a model; nil if there is nothing that a reader has to know.
  public var step: MethodStep? { MethodStep(stage: name, summary: summary, parameters: .object(parameters)) }

  public init() {}

  init(_ entry: Recipe.Entry) {
    (id, name, summary) = (entry.id, entry.descriptor.name, entry.descriptor.summary)
    parameters = entry.key.object ?? JSONObject()
    files = JSONObject(
      entry.files.sorted { $0.key < $1.key }.map { ($0.key, .string(Folder.name(of: $0.value))) })
  }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("id", &id)
    members.value("name", &name)
    members.value("summary", &summary)
    members.value("parameters", &parameters)
    members.value("files", &files)
  }
}
