import EspalierCore

/// Writes a spill array, sequence after sequence, with the memory of a few chunks.
///
/// `zarr.json` comes last: a folder without it is unfinished, and is removed by whoever chose its name.
public struct SpillWriter: ~Copyable {
  public let folder: String
  public let layout: SpillLayout
  private var encoder: ChunkEncoder
  // The elements of one chunk, row after row.
  private var chunk: Buffer<UInt8>
  private var shard: SpillShardWriter
  private var digest: SHA256
  private var written = 0
  private var hasFailed = false

  /// Creates `folder` and begins an array of `sequences x tokens x width` values.
  ///
  /// - Throws: bad input for sizes that cannot be; an I/O error, also where the folder exists.
  public init(
    folder: String, sequences: Int, tokens: Int, width: Int, element: SpillElement, codec: SpillCodec
  ) throws {
    try self.init(
      folder: folder,
      layout: SpillLayout(sequences: sequences, tokens: tokens, width: width, element: element, codec: codec))
  }

  init(folder: String, layout: SpillLayout) throws {
    guard try Folder.entry(folder) == nil else {
      throw EspalierError(
        .io, "a spill array cannot be written where something stands; remove it.", subject: folder)
    }
    let encoder = try ChunkEncoder(ChunkFormat(layout))
    let shard = try SpillShardWriter(layout, shard: 0, in: folder)
    var digest = SHA256()
    digest.update(layout.digestPrefix)
    self.folder = folder
    self.layout = layout
    self.encoder = encoder
    self.shard = shard
    self.digest = digest
    chunk = Buffer(count: layout.chunkBytes)
  }

  /// Appends the next whole sequences: k x tokens x width values, row-major, for any k.
  ///
  /// Nothing can be appended after an error.
  ///
  /// - Throws: an I/O error; bad input where a finite value has no finite element (choose another element
  ///   type); an internal fault for values that are no whole sequences or too many.
  public mutating func append(_ values: UnsafeBufferPointer<Float>) throws {
    let count = values.count / layout.valuesPerSequence
    guard !hasFailed, count * layout.valuesPerSequence == values.count, written + count <= layout.sequences
    else {
      throw EspalierError.internalFault(
        "Values were appended that the array has no place for.", subject: folder)
    }
    guard let base = values.baseAddress else { return }
    hasFailed = true
    for sequence in 0..<count { try append(sequence: base + sequence * layout.valuesPerSequence) }
    hasFailed = false
  }

  /// Appends the next whole sequences; see ``append(_:)-(UnsafeBufferPointer<Float>)``.
  public mutating func append(_ values: Span<Float>) throws {
    try values.withUnsafeBufferPointer { try append($0) }
  }

  private mutating func append(sequence values: UnsafePointer<Float>) throws {
    if written > 0, written % layout.sequencesPerShard == 0 {
      shard = try SpillShardWriter(layout, shard: written / layout.sequencesPerShard, in: folder)
    }
    for index in 0..<layout.chunksPerSequence {
      let tokens = layout.tokens(ofChunk: index)
      let count = tokens.count * layout.width
      let used = count * layout.element.byteCount
      let isFinite = chunk.withUnsafeMutable { chunk in
        let chunk = UnsafeMutableRawBufferPointer(chunk)
        if let base = chunk.baseAddress, used < chunk.count {
          (base + used).initializeMemory(as: UInt8.self, repeating: 0, count: chunk.count - used)
        }
        return chunk.baseAddress.map {
          layout.element.store(values + tokens.lowerBound * layout.width, $0, count: count)
        } ?? true
      }
      guard isFinite else { throw overflow(tokens) }
      try chunk.withUnsafe { chunk in
        let chunk = UnsafeRawBufferPointer(chunk)
        digest.update(UnsafeRawBufferPointer(rebasing: chunk[..<used]))
        try encoder.encode(chunk)
      }
      try encoder.withStored { try shard.append($0) }
    }
    written += 1
    if written == layout.sequences || written % layout.sequencesPerShard == 0 { try shard.close() }
  }

  private func overflow(_ tokens: Range<Int>) -> EspalierError {
    .badInput(
      "a hidden value of sequence \(written), tokens \(tokens), is too large for \(layout.element.rawValue); "
        + "spill as \(layout.element == .f16 ? "bf16 or f32" : "f32").", subject: folder)
  }

  /// Ends the array; returns when files and folders are on the disk.
  ///
  /// - Returns: the SHA-256 over shape, element type and the elements in row-major order, whatever the codec.
  /// - Throws: an I/O error; an internal fault where sequences are missing.
  public consuming func finish() throws -> Digest {
    guard !hasFailed, written == layout.sequences else {
      throw EspalierError.internalFault(
        "A spill array was ended after \(written) of \(layout.sequences) sequences.", subject: folder)
    }
    let (folder, layout) = (folder, layout)
    let digest = digest.finalize()
    try Folder.sync(folder + "/c")
    try Folder.writeAtomically(
      Array(layout.metadata(digest: digest).prettyText.utf8), to: folder + "/zarr.json")
    try Folder.sync(Folder.parent(of: folder))
    return digest
  }
}

/// Writes one shard file: stored chunks one after another, then the index.
struct SpillShardWriter: ~Copyable {
  private let file: File
  private let path: String
  private var index: [UInt64]
  private var next = 0
  private var offset = 0

  init(_ layout: SpillLayout, shard: Int, in folder: String) throws {
    path = layout.path(ofShard: shard, in: folder)
    try Folder.create(Folder.parent(of: path))
    file = try File(writing: path, truncate: true)
    // Zarr's mark of a chunk that is absent.
    index = Array(repeating: .max, count: layout.chunksPerShard * 2)
  }

  mutating func append(_ stored: UnsafeRawBufferPointer) throws {
    try file.write(stored, at: offset)
    index[next] = UInt64(offset).littleEndian
    index[next + 1] = UInt64(stored.count).littleEndian
    next += 2
    offset += stored.count
  }

  /// Writes the index, and returns when the file and the folders above it are on the disk.
  mutating func close() throws {
    let checksum = try index.withUnsafeBytes { bytes in
      try file.write(bytes, at: offset)
      return CRC32C.checksum(bytes)
    }
    try withUnsafeBytes(of: checksum.littleEndian) { try file.write($0, at: offset + index.count * 8) }
    try file.sync()
    try Folder.sync(Folder.parent(of: path))
    try Folder.sync(Folder.parent(of: Folder.parent(of: path)))
  }
}
