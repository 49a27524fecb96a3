import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// Writes the pruned checkpoint: the folder with other bytes only for pruned matrices, in dense or compact form.
public struct Emit: OutputStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "emit",
    summary:
      "Writes the pruned checkpoint: the same files, with the pruned weights set to zero and fitted ones replaced.",
    revision: 1
  ) { .output(Emit(&$0)) }

  private enum Format: String, CaseIterable {
    case dense, compact, both
  }

  private let format: Format
  private let metadata: CheckpointWriter.Metadata

  init(_ parameters: inout Parameters) {
    format = parameters.choice(
      "format", default: .dense,
      "How matrices are stored: dense, which every loader reads; compact, as bit masks and values (sparse-bitmask or sparse-24-bitmask of compressed-tensors), which espalier reads; or both, the compact form in OUTPUT-compact."
    )
    metadata = parameters.choice(
      "metadata", default: .none,
      "Whether config.json of a compact folder names the format in quantization_config; loaders that do not know it refuse such a folder."
    )
  }

  public func sourceFiles(of checkpoint: Checkpoint) throws -> [String: String] {
    // The tensors of the shards are in the key already.
    Dictionary(
      try CheckpointWriter.otherFiles(of: checkpoint).map { ($0, checkpoint.folder + "/" + $0) },
      uniquingKeysWith: { first, _ in first })
  }

  public func output(of checkpoint: Checkpoint, path: String) throws -> JobOutput {
    // How small a compact form is depends on the masks; it is never larger.
    let bytes = try CheckpointWriter.denseByteCount(of: checkpoint)
    return JobOutput(.checkpoint, path: path, bytes: format == .both ? 2 * bytes : bytes)
  }

  /// The folders to write, the main one first.
  private func folders(_ output: JobOutput) -> [(form: CheckpointWriter.Form, path: String)] {
    switch format {
    case .dense: [(.dense, output.path)]
    case .compact: [(.compact, output.path)]
    case .both: [(.dense, output.path), (.compact, output.path + "-compact")]
    }
  }

  public func isPresent(_ output: JobOutput, key: Digest) throws -> Bool {
    try folders(output).allSatisfy { _, path in
      guard try Folder.entry(path + "/" + OutputRecord.fileName) != nil else { return false }
      let record = try OutputRecord(folder: path)
      return try record.key == key && record.damage(in: path).isEmpty
    }
  }

  public func check(existing output: JobOutput, job: Job) throws {
    for (_, path) in folders(output) {
      guard try !Folder.contains(path, job.work) else {
        throw EspalierError.usage(
          "the work folder lies in the output folder, which is written whole at the end; choose another --work or --output.",
          subject: job.work)
      }
      guard try Folder.entry(path + "/" + OutputRecord.fileName) != nil else {
        // The output is moved to this place, which replaces an empty folder, but not a link to one.
        if try Folder.isEmptyFolder(path) { continue }
        guard try Folder.entry(path) != nil || Folder.isLink(path) else { continue }
        throw EspalierError.usage(
          try Folder.isLink(path)
            ? "this is a link; give the folder itself as --output."
            : "the output folder has files in it that espalier did not write; choose another --output, or empty it.",
          subject: path)
      }
      guard try OutputRecord(folder: path).stages == OutputRecord.stages(of: job.recipe) else {
        throw EspalierError.usage(
          "the output folder holds the model of another recipe; choose another --output, or remove it.",
          subject: path)
      }
    }
  }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    // A mask while it is read, and a piece of the largest weight, masked.
    let mask = sizes.model.matrices.map { $0.rows * Mask.rowBytes($0.columns) }.max() ?? 0
    let weight = sizes.model.matrices.map { $0.parameters * sizes.weightBytes }.max() ?? 0
    // A weight that is stored by columns is transposed, masked and transposed back.
    let transposed =
      sizes.model.matrices.filter { $0.order == .columns }.map { $0.parameters * sizes.weightBytes }.max()
      ?? 0
    // Embeddings may become compact too.
    let compact = CompactForm.workingSet(
      rows: max(sizes.model.vocabularySize, sizes.model.matrices.map(\.rows).max() ?? 0),
      bytes: max(weight, sizes.model.vocabularySize * sizes.model.hiddenSize * sizes.weightBytes))
    // A piece of a weight, and one of a file for its digest.
    return WorkingSet(
      weightPages: 2 * CheckpointWriter.pieceBytes,
      rows: max(min(CheckpointWriter.pieceBytes, weight), format == .dense ? 0 : compact) + 4 * transposed
        + 2 * mask)
  }

  /// The first rank alone writes a compact form: where a matrix begins depends on all before it.
  public var isShared: Bool { true }

  public func run(_ unit: UnitContext) throws -> OutputReport {
    let output = try unit.output()
    let masks = Dictionary(
      grouping: unit.matrixInputs(.mask).map {
        CheckpointWriter.Pruned(matrix: $0.matrix, folder: $0.folder)
      },
      by: \.matrix.tensor)
    let partial = output.partial + "/model"
    guard unit.isOwner else {
      for (form, _) in folders(output).reversed() where form == .dense {
        if try unit.ranks.spread() == [1] { _ = try write(form, masks, to: partial, unit) }
      }
      return OutputReport()
    }
    // The main folder is written last: if it is there, all is done.
    let records = try folders(output).reversed().map { form, path in
      let known = try written(path, unit)
      if form == .dense { _ = try unit.ranks.spread([known == nil ? 1 : 0]) }
      if let known { return known }
      do {
        guard let record = try write(form, masks, to: partial, unit) else {
          throw EspalierError.internalFault("another rank owns the output.")
        }
        try unit.requireSameSources()
        try Folder.move(partial, to: path)
        return record
      } catch {
        // The unfinished output may be what fills the disk.
        try? Folder.remove(partial)
        throw error
      }
    }
    return try report(records[records.count - 1], unit)
  }

  /// Writes a folder with its record.
  ///
  /// - Returns: nil on a rank that only helps.
  private func write(
    _ form: CheckpointWriter.Form, _ masks: [String: [CheckpointWriter.Pruned]], to folder: String,
    _ unit: UnitContext
  ) throws -> OutputRecord? {
    let ranks: any Ranks = form == .dense ? unit.ranks : OneRank()
    if unit.isOwner { try Folder.remove(folder) }
    // Every byte is written, then read again for the digest; a compact form takes another pass over the matrices.
    let total =
      try (form == .dense ? 2 : 3) * CheckpointWriter.denseByteCount(of: unit.checkpoint) / ranks.count
    var done = 0
    func progress(_ bytes: Int) throws {
      done += bytes
      try unit.progress(min(done, total), of: total)
    }
    let writer = try CheckpointWriter(
      unit.checkpoint, pruned: masks, form: form, metadata: metadata, ranks: ranks, progress: progress)
    let (names, matrices) = try writer.write(to: folder)
    let files = try OutputRecord.files(names, folder, by: ranks, progress)
    guard unit.isOwner else { return nil }
    let record = OutputRecord(key: unit.key, matrices: matrices, recipe: unit.job.recipe, files: files)
    try ModelNotes(unit.job, unit.sources(), record, evaluations: []).write(to: folder)
    try Folder.sync(folder)
    return record
  }

  /// Writes the notes again if there are new measurements, or one of the notes is gone or damaged.
  ///
  /// A run that measures nothing leaves earlier measurements alone. If a crash comes between two files, the next run writes both.
  public func conclude(
    _ output: JobOutput, key: Digest, job: Job, sources: JobSources,
    evaluations: [(stage: String, report: EvaluationReport)]
  ) throws {
    for (_, path) in folders(output) {
      let record = try OutputRecord(folder: path)
      guard record.key == key, try !evaluations.isEmpty || !ModelNotes.areWhole(record, in: path) else {
        continue
      }
      // The output is finished: a kill leaves nothing in it.
      try ModelNotes(job, sources, record, evaluations: evaluations).write(to: path, drafts: output.partial)
    }
  }

  /// The record of an output that an earlier run completed just before it was stopped; nil if there is none.
  ///
  /// A damaged output is renamed, not removed: the user may have put files into it.
  private func written(_ output: String, _ unit: UnitContext) throws -> OutputRecord? {
    guard try Folder.entry(output) != nil, try !Folder.isEmptyFolder(output) else { return nil }
    let record = try OutputRecord(folder: output)
    guard record.key == unit.key else {
      throw EspalierError.usage(
        "the output folder holds another pruned model; choose another --output, or remove it.",
        subject: output)
    }
    guard let finding = try record.damage(in: output).first else { return record }
    let aside = output + ".damaged"
    guard try Folder.entry(aside) == nil else {
      throw EspalierError.badInput(
        "\(finding.problem) \(aside) exists already; remove it, then run the same command again.",
        subject: finding.subject)
    }
    try Folder.move(output, to: aside)
    unit.note(
      "\(finding.subject): \(finding.problem) The output is written again; the damaged one is now \(aside).")
    return nil
  }

  /// The digest of the output becomes the unit's artifact, so that it is in the keys of evaluations.
  private func report(_ record: OutputRecord, _ unit: UnitContext) throws -> OutputReport {
    let report = OutputReport(
      matrices: record.matrices.count, files: record.files.count, digest: record.filesDigest)
    try Folder.writeAtomically(Array(report.json.text.utf8), to: unit.folder + "/output.json")
    return report
  }
}
