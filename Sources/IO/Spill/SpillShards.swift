import EspalierCore

/// Encodes the chunks of a spill array in order and writes its files.
struct SpillShards: ~Copyable {
  private let folder: String
  private var layout: SpillLayout
  private var encoder: ChunkEncoder
  private var shard: SpillShardWriter
  private var digest: SpillDigest?
  private var written = 0
  private var codecIsUndecided: Bool
  private let isDurable: Bool

  /// - Parameters:
  ///   - ifWorthwhile: whether the layout's codec is used only if it pays off for the first chunk.
  ///   - isDurable: whether the shards must be on the disk at the end.
  init(_ layout: SpillLayout, in folder: String, ifWorthwhile: Bool, isDurable: Bool) throws {
    let encoder = try ChunkEncoder(ChunkFormat(layout))
    let shard = try SpillShardWriter(layout, shard: 0, in: folder)
    self.folder = folder
    self.layout = layout
    self.encoder = encoder
    self.shard = shard
    digest = SpillDigest(layout)
    codecIsUndecided = ifWorthwhile
    self.isDurable = isDurable
  }

  static func byteCount(of layout: SpillLayout) -> Int {
    let context =
      switch layout.codec {
      case .none: 0
      case .lz4: 64 << 10
      // Measured with libzstd 1.5: 1.3 MiB up to level 3; above, it grows with the chunk.
      case .zstd(let level): level <= 3 ? 2 << 20 : (4 << 20) + 18 * layout.chunkBytes
      }
    return layout.chunkBytes + ChunkFormat(layout).largestStored + 2 * layout.indexBytes + context
      + SpillDigest.byteCount(of: layout)
  }

  /// Writes the next chunk; the last chunk of a sequence is padded with zeros.
  mutating func append(_ chunk: UnsafeRawBufferPointer) throws {
    if written > 0, written % layout.chunksPerShard == 0 {
      shard = try SpillShardWriter(layout, shard: written / layout.chunksPerShard, in: folder)
    }
    let tokens = layout.tokens(ofChunk: written % layout.chunksPerSequence)
    let used = tokens.count * layout.width * layout.element.byteCount
    digest?.update(chunk.bytes.extracting(first: used))
    try encoder.encode(chunk)
    if codecIsUndecided {
      codecIsUndecided = false
      let count = encoder.withStored(\.count)
      if Double(chunk.count) < SpillCodec.worthwhileRatio * Double(count) {
        layout.codec = .none
        encoder = try ChunkEncoder(ChunkFormat(layout))
        try encoder.encode(chunk)
      }
    }
    try encoder.withStored { try shard.append($0.bytes) }
    written += 1
    if written == layout.chunkCount || written % layout.chunksPerShard == 0 {
      try shard.close(isDurable: isDurable)
    }
  }

  /// Writes `zarr.json`; returns once it is on the disk, with all files and folders if they are durable.
  ///
  /// - Returns: the content digest.
  mutating func finish() throws -> Digest {
    guard written == layout.chunkCount, let digest = digest.take()?.finalize() else {
      throw EspalierError.internalFault("A spill array was finished too early or twice.", subject: folder)
    }
    if isDurable { try Folder.sync(folder + "/c") }
    try Folder.writeAtomically(
      Array(layout.metadata(digest: digest).prettyText.utf8), to: folder + "/zarr.json")
    try Folder.sync(Folder.parent(of: folder))
    return digest
  }
}

/// Writes one shard file: the stored chunks, then the index.
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
    // Zarr's mark for an absent chunk.
    index = Array(repeating: .max, count: layout.chunksPerShard * 2)
  }

  mutating func append(_ stored: RawSpan) throws {
    try file.write(stored, at: offset)
    index[next] = UInt64(offset).littleEndian
    index[next + 1] = UInt64(stored.byteCount).littleEndian
    next += 2
    offset += stored.byteCount
  }

  /// Writes the index; if it is to be durable, returns once the file and the folders above it are on the disk.
  mutating func close(isDurable: Bool) throws {
    try file.write(index.span.bytes, at: offset)
    let checksum = [CRC32C.checksum(index.span.bytes).littleEndian]
    try file.write(checksum.span.bytes, at: offset + index.count * 8)
    guard isDurable else { return }
    try file.sync()
    try Folder.sync(Folder.parent(of: path))
    try Folder.sync(Folder.parent(of: Folder.parent(of: path)))
  }
}
