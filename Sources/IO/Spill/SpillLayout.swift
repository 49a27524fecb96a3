import EspalierCore

/// The layout of a spill array: the sizes of its chunks and shards, which follow from its shape.
///
/// A shard file holds whole sequences, about 64 MiB of elements before compression but at least one sequence; an inner chunk holds
/// some tokens of one sequence, about 512 KiB but at least one token.
public struct SpillLayout: Hashable, Sendable {
  public let sequences: Int
  /// Tokens of each sequence.
  public let tokens: Int
  /// Values of each token.
  public let width: Int
  public let element: SpillElement
  /// May still change until the first chunk is written.
  public internal(set) var codec: SpillCodec
  /// Tokens of one inner chunk; the last chunk of a sequence is padded with zeros.
  let chunkTokens: Int
  let chunksPerSequence: Int
  let sequencesPerShard: Int

  /// The layout of `sequences x tokens x width` values.
  ///
  /// - Throws: bad input if a size is not positive, a token takes over 256 MiB, or the whole is larger than any disk.
  public init(sequences: Int, tokens: Int, width: Int, element: SpillElement, codec: SpillCodec) throws {
    try self.init(
      sequences: sequences, tokens: tokens, width: width, element: element, codec: codec, sizes: .standard)
  }

  /// Approximate sizes of chunks and shards before compression. Only tests change them.
  struct Sizes: Sendable {
    var chunkBytes = 512 << 10
    var shardBytes = 64 << 20
    static let standard = Sizes()
  }

  init(
    sequences: Int, tokens: Int, width: Int, element: SpillElement, codec: SpillCodec, sizes: Sizes
  ) throws {
    guard sequences > 0, tokens > 0, width > 0 else {
      throw EspalierError.badInput("a spill array of \(sequences) x \(tokens) x \(width) values is empty.")
    }
    guard let total = elementCount(of: [sequences, tokens, width, element.byteCount]), total < 1 << 56,
      width * element.byteCount <= 1 << 28
    else {
      throw EspalierError.badInput(
        "a spill array of \(sequences) x \(tokens) x \(width) values is too large.")
    }
    if case .zstd(let level) = codec, !SpillCodec.zstdLevels.contains(level) {
      throw EspalierError.badInput("the zstd level \(level) is not between 1 and 19.")
    }
    self.sequences = sequences
    self.tokens = tokens
    self.width = width
    self.element = element
    self.codec = codec
    let most = min(tokens, max(1, sizes.chunkBytes / (width * element.byteCount)))
    let wanted = (tokens - 1) / most + 1
    chunkTokens = (tokens - 1) / wanted + 1
    chunksPerSequence = (tokens - 1) / chunkTokens + 1
    sequencesPerShard = min(sequences, max(1, sizes.shardBytes / (tokens * width * element.byteCount)))
  }

  /// Values of one sequence.
  public var valuesPerSequence: Int { tokens * width }
  /// Upper bound of the array's size on the disk, in bytes, if nothing can be compressed.
  public var largestByteCount: Int {
    sequences * chunksPerSequence * ChunkFormat(self).largestStored + shardCount * indexBytes + 4096
  }

  var chunkBytes: Int { chunkTokens * width * element.byteCount }
  var shardCount: Int { (sequences - 1) / sequencesPerShard + 1 }
  var chunkCount: Int { sequences * chunksPerSequence }
  var chunksPerShard: Int { sequencesPerShard * chunksPerSequence }
  /// Size of a shard's index in bytes: offset and size of each inner chunk, and a checksum.
  var indexBytes: Int { chunksPerShard * 16 + 4 }

  /// Number of inner chunks in a shard; the last shard may have fewer than its index has entries.
  func chunks(inShard shard: Int) -> Int {
    min(sequencesPerShard, sequences - shard * sequencesPerShard) * chunksPerSequence
  }

  /// The tokens of a sequence that its inner chunk `chunk` holds.
  func tokens(ofChunk chunk: Int) -> Range<Int> {
    chunk * chunkTokens..<min(tokens, (chunk + 1) * chunkTokens)
  }

  func path(ofShard shard: Int, in folder: String) -> String { "\(folder)/c/\(shard)/0/0" }
}
