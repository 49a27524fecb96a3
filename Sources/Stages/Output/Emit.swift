import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// Writes the pruned checkpoint: a copy of the folder with other bytes only for pruned matrices.
public struct Emit: OutputStage {
  public static let descriptor = StageDescriptor(
    name: "emit",
    summary:
      "Writes the pruned checkpoint: the same files, with the pruned weights set to zero and fitted ones replaced.",
    revision: 1
  ) { .output(Emit(&$0)) }

  init(_ parameters: inout Parameters) {}

  public func sourceFiles(of checkpoint: Checkpoint) throws -> [String: String] {
    // The tensors of the shards are in the key already.
    Dictionary(
      try Self.otherFiles(of: checkpoint).map { ($0, checkpoint.folder + "/" + $0) },
      uniquingKeysWith: { first, _ in first })
  }

  public func output(of checkpoint: Checkpoint, path: String) throws -> JobOutput {
    let bytes = try checkpoint.fileNames().reduce(0) {
      try $0 + (Folder.entry(checkpoint.folder + "/" + $1)?.size ?? 0)
    }
    return JobOutput(.checkpoint, path: path, bytes: bytes)
  }

  public func isPresent(_ output: JobOutput, key: Digest) throws -> Bool {
    guard try Folder.entry(output.path + "/" + OutputRecord.fileName) != nil else { return false }
    let record = try OutputRecord(folder: output.path)
    return try record.key == key && record.damage(in: output.path).isEmpty
  }

  public func check(existing output: JobOutput, job: Job) throws {
    guard try Folder.entry(output.path) != nil else { return }
    guard try Folder.entry(output.path + "/" + OutputRecord.fileName) != nil else {
      throw EspalierError.usage(
        "the output folder exists and was not written by espalier; choose another --output, or remove it.",
        subject: output.path)
    }
    guard try OutputRecord(folder: output.path).stages == OutputRecord.stages(of: job.recipe) else {
      throw EspalierError.usage(
        "the output folder holds the model of another recipe; choose another --output, or remove it.",
        subject: output.path)
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
    // A piece of a weight, and one of a file for its digest.
    return WorkingSet(
      weightPages: 2 * Self.pieceBytes,
      rows: min(Self.pieceBytes, weight) + 4 * transposed + 2 * mask)
  }

  public func run(_ unit: UnitContext) throws -> OutputReport {
    let output = try unit.output()
    if let record = try written(output.path, unit) { return try report(record, unit) }
    let masks = Dictionary(
      grouping: unit.matrixInputs(.mask).map { Masked(matrix: $0.matrix, folder: $0.folder) },
      by: \.matrix.tensor)
    let partial = output.partial + "/model"
    do {
      let record = try write(masks, to: partial, unit)
      try unit.requireSameSources()
      try Folder.move(partial, to: output.path)
      return try report(record, unit)
    } catch {
      // The unfinished output may be what fills the disk.
      try? Folder.remove(partial)
      throw error
    }
  }

  /// A matrix with the folder of its mask.
  private struct Masked {
    let matrix: ModelOutline.Matrix
    let folder: String
  }

  private func write(_ masks: [String: [Masked]], to partial: String, _ unit: UnitContext) throws
    -> OutputRecord
  {
    try Folder.remove(partial)
    try Folder.create(partial)
    let names = try Self.otherFiles(of: unit.checkpoint) + unit.checkpoint.shards
    let sizes = try names.map { try Folder.entry(unit.checkpoint.folder + "/" + $0)?.size ?? 0 }
    // Every byte is written, then read again for the digest.
    let total = 2 * sizes.reduce(0, +)
    var done = 0
    func progress(_ bytes: Int) throws {
      done += bytes
      try unit.progress(done, of: total)
    }
    var matrices: [OutputRecord.Matrix] = []
    for name in names {
      try Folder.create(Folder.parent(of: partial + "/" + name))
      matrices += try Self.write(name, unit.checkpoint, masks, into: partial, progress: progress)
    }
    try Self.requireSameTensors(unit.checkpoint, in: partial)
    for folder in Self.folders(of: names) { try Folder.sync(partial + "/" + folder) }
    let record = try OutputRecord(
      key: unit.key, matrices: matrices, recipe: unit.job.recipe, files: names, folder: partial,
      read: progress
    )
    try record.write(to: partial)
    try Folder.sync(partial)
    return record
  }

  /// The record of an output that an earlier run completed just before it was stopped; nil if there is none.
  ///
  /// A damaged output is renamed, not removed: the user may have put files into it.
  private func written(_ output: String, _ unit: UnitContext) throws -> OutputRecord? {
    guard try Folder.entry(output) != nil else { return nil }
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

  /// Writes a file of the checkpoint: copies everything between the pruned matrices, which are masked piece by piece.
  ///
  /// - Returns: the pruned matrices.
  private static func write(
    _ name: String, _ checkpoint: Checkpoint, _ masks: [String: [Masked]], into folder: String,
    progress: (Int) throws -> Void
  ) throws -> [OutputRecord.Matrix] {
    let source = try File(reading: checkpoint.folder + "/" + name)
    let file = try File(writing: folder + "/" + name, truncate: true)
    var (position, unsynced) = (0, 0)
    // Bytes that wait for the disk take memory, so they are synced early.
    func wrote(_ bytes: Int) throws {
      position += bytes
      unsynced += bytes
      if unsynced >= copiedBytes {
        try file.sync()
        unsynced = 0
      }
      try progress(bytes)
    }
    func copy(to end: Int) throws {
      while position < end {
        let next = position..<min(end, position + copiedBytes)
        try file.copy(next, of: source)
        try wrote(next.count)
      }
    }
    var matrices: [OutputRecord.Matrix] = []
    for entry in checkpoint.entries[name] ?? [] {
      guard let masked = masks[entry.name], checkpoint.tensors[entry.name]?.shard == name else { continue }
      for one in masked.sorted(by: { $0.matrix.part ?? 0 < $1.matrix.part ?? 0 }) {
        let pruned = try PrunedMatrix(folder: one.folder)
        let stored = try checkpoint.stored(one.matrix).dense()
        try copy(to: stored.entry.range.lowerBound)
        let weight = try LinearWeight(.dense(stored), order: one.matrix.order, pruned: pruned)
        try write(weight, of: stored, order: one.matrix.order) { bytes in
          let count = bytes.count
          try file.write(bytes.span.bytes, at: position)
          try wrote(count)
        }
        matrices.append(
          .init(place: one.matrix, pattern: pruned.mask.pattern, hasNewWeights: pruned.weights != nil))
      }
    }
    try copy(to: source.size())
    try file.sync()
    return matrices
  }

  /// Calls `body` with the bytes of a pruned matrix, in the order in which they are stored.
  private static func write(
    _ weight: LinearWeight, of stored: StoredTensor, order: ModelOutline.Matrix.Order,
    _ body: (consuming Buffer<UInt8>) throws -> Void
  ) throws {
    let rowBytes = stored.entry.range.count / weight.rows
    if order == .rows {
      for rows in parts(of: weight.rows, size: max(1, pieceBytes / rowBytes)) {
        try body(weight.maskedBytes(rows))
        weight.release(rows)
      }
    } else {
      let masked = try StoredTensor(
        weight.maskedBytes(0..<weight.rows), shape: [weight.rows, weight.columns], derivedFrom: stored)
      try body(masked.transposed().bytes())
    }
    weight.tensor.release()
    stored.release()
  }

  /// Checks that the output has the tensors of the source, at the same places.
  private static func requireSameTensors(_ checkpoint: Checkpoint, in folder: String) throws {
    for shard in checkpoint.shards {
      let written = try SafetensorsHeader(path: folder + "/" + shard).tensors
      let source = checkpoint.entries[shard] ?? []
      guard written.map(\.name) == source.map(\.name), written.map(\.range) == source.map(\.range) else {
        throw EspalierError.internalFault("\(shard) does not hold the tensors of the source.")
      }
    }
  }

  /// All folders that contain these files, directly or not.
  private static func folders(of names: [String]) -> Set<String> {
    var folders: Set<String> = []
    for name in names {
      var folder = Folder.parent(of: name)
      while folders.insert(folder).inserted { folder = Folder.parent(of: folder) }
    }
    return folders
  }

  /// Bytes of a weight that are masked at a time, and of a file that are hashed at a time.
  private static let pieceBytes = 4 << 20
  /// Bytes that are copied at a time, and that are written before a sync.
  private static let copiedBytes = 64 << 20

  /// All files of the checkpoint except its shards and the records of an earlier run of espalier.
  private static func otherFiles(of checkpoint: Checkpoint) throws -> [String] {
    try checkpoint.fileNames().filter {
      !checkpoint.shards.contains($0) && $0 != OutputRecord.fileName && $0 != OutputRecord.recipeName
    }
  }
}
