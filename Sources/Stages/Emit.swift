import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// Writes the pruned checkpoint: a copy of the folder in which only the bytes of pruned matrices differ.
public struct Emit: ModelStage {
  public static let name = "emit"
  public static let summary =
    "Writes the pruned checkpoint: the same files, with the pruned weights set to zero and fitted ones replaced."
  public static let revision = 1

  public init(_ parameters: inout Parameters) {}

  public func sourceFiles(of checkpoint: Checkpoint) -> [String: String] {
    // Shards are in the key by their tensors; what cannot be listed fails when it is copied.
    let names = (try? Self.otherFiles(of: checkpoint)) ?? []
    return Dictionary(
      names.map { ($0, checkpoint.folder + "/" + $0) }, uniquingKeysWith: { first, _ in first })
  }

  public func outputIsPresent(_ key: Digest, job: Job) throws -> Bool {
    guard try Folder.entry(job.output + "/" + OutputRecord.fileName) != nil else { return false }
    return try OutputRecord(folder: job.output).key == key
  }

  public func checkOutput(job: Job) throws {
    let output = job.output
    guard let entry = try Folder.entry(output) else { return }
    guard entry.isFolder else {
      throw EspalierError.usage(
        "there is a file where the output folder should be; choose another --output.", subject: output)
    }
    guard try Folder.entry(output + "/" + OutputRecord.fileName) != nil else {
      throw EspalierError.usage(
        "the output folder exists and was not written by espalier; choose another --output, or remove it.",
        subject: output)
    }
    guard try OutputRecord(folder: output).stages == OutputRecord.stages(of: job.recipe) else {
      throw EspalierError.usage(
        "the output folder holds the model of another recipe; choose another --output, or remove it.",
        subject: output
      )
    }
  }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    let largest = sizes.model.matrices.map { $0.rows * Mask.rowBytes($0.columns) }.max() ?? 0
    return WorkingSet(weights: 8 << 20, rows: 2 * largest)
  }

  public func run(_ unit: UnitContext) throws -> JSON {
    let output = unit.job.output
    if try Folder.entry(output) != nil { return try report(written(output, unit), unit) }
    let masks = Dictionary(
      unit.matrixInputs(.mask).map { ($0.matrix.tensor, $0.folder) }, uniquingKeysWith: { _, last in last })
    let partial = output + ".partial-\(unit.key.short)"
    try Folder.remove(partial)
    try Folder.create(partial)
    let other = try Self.otherFiles(of: unit.checkpoint)
    let total = other.count + unit.checkpoint.shards.count
    for (index, name) in other.enumerated() {
      try Self.copy(name, from: unit.checkpoint.folder, to: partial).sync()
      try unit.advance(index + 1, of: total)
    }
    var matrices: [OutputRecord.Matrix] = []
    for (index, shard) in unit.checkpoint.shards.enumerated() {
      matrices += try prune(shard, unit.checkpoint, masks, into: partial) {
        try unit.advance(other.count + index, of: total)
      }
      try unit.advance(other.count + index + 1, of: total)
    }
    let record = try OutputRecord(
      key: unit.key, matrices: matrices, recipe: unit.job.recipe, files: other + unit.checkpoint.shards,
      folder: partial)
    try record.write(to: partial)
    try Folder.sync(partial)
    try Folder.move(partial, to: output)
    return try report(record, unit)
  }

  /// The record of an output that an earlier run completed just before it was stopped.
  private func written(_ output: String, _ unit: UnitContext) throws -> OutputRecord {
    let record = try OutputRecord(folder: output)
    guard record.key == unit.key else {
      throw EspalierError.usage(
        "the output folder holds another pruned model; choose another --output, or remove it.",
        subject: output)
    }
    if let finding = try record.damage(in: output).first {
      throw EspalierError.badInput(
        "the file is not what espalier wrote; remove the output folder, then run the same command again.",
        subject: finding.subject)
    }
    return record
  }

  /// The artifact of the unit is the digest of the output, so that what is measured on it has its own key.
  private func report(_ record: OutputRecord, _ unit: UnitContext) throws -> JSON {
    let json: JSON = [
      "matrices": .integer(record.matrices.count), "files": .integer(record.files.count),
      "digest": .string(record.filesDigest.hex),
    ]
    try Folder.writeAtomically(Array(json.text.utf8), to: unit.folder + "/output.json")
    return json
  }

  private func prune(
    _ shard: String, _ checkpoint: Checkpoint, _ masks: [String: String], into folder: String,
    tile: () throws -> Void
  ) throws -> [OutputRecord.Matrix] {
    let file = try Self.copy(shard, from: checkpoint.folder, to: folder)
    var matrices: [OutputRecord.Matrix] = []
    for entry in checkpoint.entries[shard] ?? [] {
      guard let pruned = masks[entry.name], checkpoint.tensors[entry.name]?.shard == shard,
        let dtype = entry.dtype
      else { continue }
      let matrix = try PrunedMatrix(folder: pruned)
      let weight = try LinearWeight(checkpoint.mapped(entry, shard: shard), pruned: matrix)
      let rowBytes = weight.columns * dtype.byteCount
      for rows in parts(of: weight.rows, size: max(1, (4 << 20) / rowBytes)) {
        try file.write(weight.maskedBytes(rows), at: entry.range.lowerBound + rows.lowerBound * rowBytes)
        try tile()
      }
      weight.tensor.release()
      matrices.append(
        .init(
          name: entry.name, rows: weight.rows, columns: weight.columns, pattern: matrix.mask.pattern,
          hasNewWeights: matrix.weights != nil))
    }
    try file.sync()
    return matrices
  }

  private static func copy(_ name: String, from source: String, to target: String) throws -> File {
    try Folder.create(Folder.parent(of: target + "/" + name))
    let file = try File(writing: target + "/" + name, truncate: true)
    try file.copy(contentsOf: File(reading: source + "/" + name))
    return file
  }

  /// Every file of the checkpoint but its shards and what an earlier run of ours wrote.
  private static func otherFiles(of checkpoint: Checkpoint) throws -> [String] {
    try checkpoint.fileNames().filter {
      !checkpoint.shards.contains($0) && $0 != OutputRecord.fileName && $0 != OutputRecord.recipeName
    }
  }
}
