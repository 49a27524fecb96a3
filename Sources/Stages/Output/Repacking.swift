import EspalierCore
import EspalierIO

/// Writes a checkpoint in its other form, dense or compact, with the same bytes in every tensor.
///
/// The new folder is complete or not there at all: it is written in `OUTPUT.partial`, which is locked, and renamed at the end.
public struct Repacking: Sendable {
  public enum Direction: Sendable {
    /// From dense to compact; `describing` names the format in `config.json` as compressed-tensors does.
    case pack(describing: Bool)
    case unpack
  }

  /// Compact matrices of the compact folder.
  public let matrices: Int
  /// Weights that are -0 and so are kept as values, since what a mask leaves out comes back as +0.
  public let negativeZeros: Int
  /// Bytes of the folder's shards before and after.
  public let bytesBefore: Int
  public let bytesAfter: Int

  /// - Parameter progress: called with bytes done and to do; throws to stop.
  /// - Throws: a usage error if there is something at `output` or nothing to do; bad input if the checkpoint is damaged; an I/O error,
  ///   also if the disk has too little space.
  public init(
    _ source: String, to output: String, _ direction: Direction, progress: (Int, Int) throws -> Void
  )
    throws
  {
    let checkpoint = try Checkpoint(folder: source)
    try Self.check(checkpoint, output, direction)
    let partial = output + ".partial"
    let lock = try FolderLock(folder: partial, .output(output, option: "the second argument"))
    defer {
      try? Folder.remove(partial)
      withExtendedLifetime(lock) {}
    }
    let written = partial + "/model"
    try Folder.remove(written)
    self = try withoutActuallyEscaping(progress) { progress in
      try Self(checkpoint, to: written, output, direction, progress)
    }
    try Folder.move(written, to: output)
  }

  private init(
    _ checkpoint: Checkpoint, to folder: String, _ output: String, _ direction: Direction,
    _ progress: @escaping (Int, Int) throws -> Void
  ) throws {
    let record = try Folder.entry(checkpoint.folder + "/" + OutputRecord.fileName).map { _ in
      try OutputRecord(folder: checkpoint.folder)
    }
    // Files are hashed if there is a record, matrices read for their sizes, and everything is written and hashed.
    let size = try CheckpointWriter.denseByteCount(of: checkpoint)
    let isPacking = if case .pack = direction { true } else { false }
    let total = (record == nil ? 1 : 3) * size + (isPacking ? size : 0)
    var done = 0
    func advance(_ bytes: Int) throws {
      done = min(done + bytes, total)
      try checkpoint.requireReadable()
      try progress(done, total)
    }
    if let finding = try record?.damage(
      in: checkpoint.folder, includingNotes: true, read: advance
    ).first {
      throw EspalierError.badInput(
        "\(finding.problem) Nothing was written; espalier verify tells more.", subject: finding.subject)
    }
    var metadata = CheckpointWriter.Metadata.none
    if case .pack(describing: true) = direction { metadata = .compressedTensors }
    let writer = try CheckpointWriter(
      checkpoint, form: isPacking ? .compact : .dense, metadata: metadata, progress: advance)
    guard !isPacking || !writer.compactNames.isEmpty else {
      throw EspalierError.usage(
        "no matrix would be smaller as a bit mask and values: too few weights are zero. Prune the checkpoint first.",
        subject: checkpoint.folder)
    }
    try Self.requireSpace(try writer.byteCount(), at: output)
    let (files, _) = try writer.write(to: folder)
    if let record {
      for note in record.notes {
        let bytes = try Folder.read(checkpoint.folder + "/" + note.name, limit: ModelNotes.mostBytes)
        try Folder.writeAtomically(bytes, to: folder + "/" + note.name)
      }
      let new = try OutputRecord(record, files: files, folder: folder, read: advance)
      try new.write(to: folder)
    }
    try Folder.sync(folder)
    try Self.requireSameShards(checkpoint)
    let compact = isPacking ? try Checkpoint(folder: folder) : checkpoint
    negativeZeros = writer.negativeZeros
    matrices = compact.tensors.values.count { if case .compact = $0 { true } else { false } }
    func bytes(_ folder: String) throws -> Int {
      try checkpoint.shards.reduce(0) { try $0 + (Folder.entry(folder + "/" + $1)?.size ?? 0) }
    }
    bytesBefore = try bytes(checkpoint.folder)
    bytesAfter = try bytes(folder)
    try progress(total, total)
  }

  private static func check(_ checkpoint: Checkpoint, _ output: String, _ direction: Direction) throws {
    switch direction {
    case .pack where checkpoint.isCompact:
      throw EspalierError.usage("this checkpoint is compact already.", subject: checkpoint.folder)
    case .unpack where !checkpoint.isCompact:
      throw EspalierError.usage(
        "this checkpoint is dense: there is nothing to unpack.", subject: checkpoint.folder)
    default: break
    }
    guard try !Folder.contains(checkpoint.folder, output) else {
      throw EspalierError.usage(
        "this lies in the folder of the model; choose a place outside of it.", subject: output)
    }
    // The new folder is moved to this place, which replaces an empty one.
    guard try (Folder.entry(output) == nil && !Folder.isLink(output)) || Folder.isEmptyFolder(output) else {
      throw EspalierError.usage(
        "the output exists and is not an empty folder; choose another place, or remove it.", subject: output)
    }
  }

  private static func requireSpace(_ bytes: Int, at output: String) throws {
    let free = try Folder.disk(at: output).free
    guard bytes > free else { return }
    throw EspalierError(
      .io,
      "the output needs \(ByteSize(bytes: bytes)), but the disk has \(ByteSize(bytes: free)) free.",
      subject: output)
  }

  /// Checks that the shards that were read are still those of the folder.
  private static func requireSameShards(_ checkpoint: Checkpoint) throws {
    try checkpoint.requireReadable()
    for shard in checkpoint.shards {
      let path = checkpoint.folder + "/" + shard
      guard try Folder.entry(path)?.identity == checkpoint.identity(ofShard: shard) else {
        throw EspalierError(
          .io, "the file was changed or replaced while it was read; run the same command again.",
          subject: path)
      }
    }
  }
}
