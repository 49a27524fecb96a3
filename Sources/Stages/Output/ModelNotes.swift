import EspalierCore
import EspalierIO
import EspalierStageKit

/// What a pruned checkpoint says about itself: the recipe that makes it again, the model card, and the same facts for programs in
/// `espalier.json`.
///
/// Nothing in it depends on times, memory or paths of outputs, so that the same job gives the same bytes.
struct ModelNotes {
  /// Size limit of a note that is read.
  static let mostBytes = 1 << 20

  private let record: OutputRecord
  private let texts: [(name: String, text: String)]
  private let origin: JSONObject

  init(
    _ job: Job, _ sources: JobSources, _ record: OutputRecord,
    evaluations: [(stage: String, report: EvaluationReport)]
  ) throws {
    let evaluations = evaluations.isEmpty ? record.evaluations : evaluations
    let recipe = job.recipe.effectiveText
    let base = try BaseModel(job.checkpoint)
    self.record = record
    origin = JSONObject([
      ("version", .string(Release.version)), ("commit", Release.commit.map(JSON.string) ?? .null),
      ("model", ["name": .string(base.name), "sha256": .string(sources.tensors.hex)]),
      ("sources", .array(sources.files.map(\.json))), ("arithmetic", job.arithmetic.json),
      ("recipe", .string(recipe)),
      ("evaluations", .array(evaluations.map { ["stage": .string($0.stage), "result": $0.report.json] })),
    ])
    let hasOwnCard = try Folder.entry(job.checkpoint.folder + "/README.md")?.isFile == true
    let card = ModelCard(
      base: base,
      steps: job.recipe.entries.compactMap {
        MethodStep(stage: $0.descriptor.name, summary: $0.descriptor.summary, parameters: $0.key)
      },
      record: record, sources: sources, evaluations: evaluations, hasOwnCard: hasOwnCard)
    texts = [(OutputRecord.recipeName, recipe), (OutputRecord.cardName, card.text)]
  }

  /// Writes the notes and the record with them, each so that a crash leaves the old or the new one.
  ///
  /// A card that somebody has edited since stays as it is; `verify` tells of it.
  ///
  /// - Parameter drafts: the folder of temporary files, or nil for `folder`.
  func write(to folder: String, drafts: String? = nil) throws {
    let notes = try texts.map { name, text in
      let note = OutputRecord.File(name: name, size: text.utf8.count, digest: SHA256.digest(of: text))
      if try Self.digest(folder, name) != note.digest, try !Self.isEdited(name, record, in: folder) {
        try Folder.writeAtomically(Array(text.utf8), to: folder + "/" + name, drafts: drafts)
      }
      return note
    }
    try OutputRecord(record, notes: notes, origin: origin).write(to: folder, drafts: drafts)
  }

  /// Whether all notes are there and none is damaged.
  static func areWhole(_ record: OutputRecord, in folder: String) throws -> Bool {
    try record.notes.allSatisfy { note in
      try digest(folder, note.name) == note.digest || isEdited(note.name, record, in: folder)
    }
  }

  /// People edit cards, but not the recipe that made the weights.
  private static func isEdited(_ name: String, _ record: OutputRecord, in folder: String) throws -> Bool {
    guard name == OutputRecord.cardName, let digest = try digest(folder, name) else { return false }
    return !record.notes.contains { $0.name == name && $0.digest == digest }
  }

  /// Nil if the file is not there.
  private static func digest(_ folder: String, _ name: String) throws -> Digest? {
    let path = folder + "/" + name
    return try Folder.entry(path) == nil ? nil : SHA256.digest(ofFile: path)
  }
}

extension OutputRecord {
  /// What was measured, by stage.
  var evaluations: [(stage: String, report: EvaluationReport)] {
    (origin["evaluations"]?.array ?? []).compactMap { item in
      guard let stage = item["stage"]?.string, let result = item["result"],
        let report = EvaluationReport(json: result)
      else { return nil }
      return (stage, report)
    }
  }
}

extension JobSources.File {
  fileprivate var json: JSON {
    [
      "stage": .string(stage), "parameter": .string(parameter), "file": .string(name),
      "sha256": .string(digest.hex),
    ]
  }
}
