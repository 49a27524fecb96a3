import EspalierCore

@testable import EspalierIO

/// `zarr.json` of a spill array: as text, or made from the sizes that the bytes give, written and read again.
enum ZarrMetadataTarget: FuzzTarget {
  static let name = "zarr-metadata"
  static let words = [
    "\"shape\":", "\"attributes\":", "\"espalier\":", "\"spill\":", "\"element\":", "\"codec\":",
    "\"digest\":",
    "\"checksum\":", "\"bf16\"", "\"f32\"", "\"lz4\"", "\"zstd:1\"", "\"none\"", "9223372036854775807",
    "4294967296",
  ]

  static func seeds() throws -> [[UInt8]] {
    let codecs: [SpillCodec] = [.none, .lz4, .zstd(level: 1)]
    let texts = try zip(SpillElement.allCases, codecs).map { element, codec in
      let layout = try SpillLayout(sequences: 4, tokens: 100, width: 24, element: element, codec: codec)
      return [0] + Array(layout.metadata(digest: SHA256.digest(of: "")).text.utf8)
    }
    let sizes = [(4, 100, 24), (1 << 20, 2048, 8192), (1, 1, 1 << 26), (1 << 50, 1, 1)]
    return texts
      + sizes.map { [1, 5] + bytes(UInt64($0.0), 8) + bytes(UInt64($0.1), 8) + bytes(UInt64($0.2), 8) }
  }

  static func run(_ bytes: [UInt8]) throws {
    var taker = Taker(bytes)
    guard taker.number(1) != 0 else {
      let text = Array(taker.rest)
      let read = try SpillLayout.read(metadata: JSON(parsing: text.span.bytes), sizes: .standard)
      return use(read.layout)
    }
    let kind = Int(taker.number(1))
    let codecs: [SpillCodec] = [.none, .lz4, .zstd(level: 1), .zstd(level: 19)]
    let sizes = (0..<3).map { _ in Int(truncatingIfNeeded: taker.number(8)) }
    let layout = try SpillLayout(
      sequences: sizes[0], tokens: sizes[1], width: sizes[2], element: SpillElement.allCases[kind % 3],
      codec: codecs[kind / 3 % 4])
    use(layout)
    let digest = SHA256.digest(of: bytes)
    let text = layout.metadata(digest: digest).prettyText
    let read = try SpillLayout.read(metadata: JSON(parsing: text), sizes: .standard)
    require(read.layout == layout && read.digest == digest, "the description is read as another array")
  }

  /// Every size that follows from the shape.
  private static func use(_ layout: SpillLayout) {
    require(layout.chunkTokens * layout.chunksPerSequence >= layout.tokens, "chunks leave tokens out")
    require(layout.sequencesPerShard * layout.shardCount >= layout.sequences, "shards leave sequences out")
    require(layout.largestByteCount > 0 && SpillArray.byteCount(of: layout) > 0, "sizes overflow")
    require(layout.chunks(inShard: layout.shardCount - 1) > 0, "the last shard is empty")
    require(layout.indexBytes > 0 && layout.chunkBytes > 0, "sizes overflow")
  }
}

/// The index at the end of a shard, after the number of its chunks; the target corrects its checksum.
enum ZarrIndexTarget: FuzzTarget {
  static let name = "zarr-index"
  static let words = ["\u{14}\0\0\0\0\0\0\0"]

  static func seeds() -> [[UInt8]] {
    let entries = (0..<3).flatMap { bytes(UInt64($0 * 20), 8) + bytes(20, 8) }
    let absent = [UInt8](repeating: 0xFF, count: 16)
    return [[0, 3] + entries, [1, 3] + entries + absent, [2, 1] + bytes(0, 8) + bytes(64, 8)]
  }

  static func run(_ input: [UInt8]) throws {
    var taker = Taker(input)
    let codecs: [SpillCodec] = [.none, .lz4, .zstd(level: 1)]
    let format = ChunkFormat(codec: codecs[Int(taker.number(1) % 3)], elementBytes: 2, elements: 8)
    // As in every file of this layout: an entry for every chunk, and a checksum.
    let entries = taker.rest.count / 16
    let chunks = Int(taker.number(1)) % (entries + 1)
    let body = Array(taker.rest.prefix(entries * 16)) + [UInt8](repeating: 0, count: 16)
    let index = body.prefix(entries * 16)
    let sum = Array(index).withUnsafeBytes { CRC32C.checksum($0.bytes) }
    let whole = Array(index) + bytes(UInt64(sum), 4)
    guard
      let bounds = whole.withUnsafeBytes({ SpillShard.bounds($0, chunks: chunks, format: format) })
    else { return }
    require(bounds.count == chunks + 1 && bounds.first == 0, "there are not as many bounds as chunks")
    require(zip(bounds, bounds.dropFirst()).allSatisfy { $0 < $1 }, "bounds go backwards")
  }
}

/// A stored chunk after its format and the number of wanted elements; the target corrects its checksum, so that the rest is read.
enum ZarrChunkTarget: FuzzTarget {
  static let name = "zarr-chunk"
  static let words = ["\u{28}\u{B5}\u{2F}\u{FD}"]
  private static let codecs: [SpillCodec] = [.none, .lz4, .zstd(level: 1)]
  private static let elements = [1, 2, 9, 64, 150, 4096]

  private static func format(_ kind: Int) -> ChunkFormat {
    ChunkFormat(
      codec: codecs[kind % 3], elementBytes: kind / 3 % 2 == 0 ? 2 : 4, elements: elements[kind / 6 % 6],
      isShuffled: kind / 36 % 2 == 0 ? nil : kind / 72 % 2 == 0)
  }

  static func seeds() throws -> [[UInt8]] {
    try (0..<36).map { kind in
      let format = format(kind)
      var encoder = try ChunkEncoder(format)
      let chunk = (0..<format.chunkBytes).map { UInt8(truncatingIfNeeded: $0 / 16 * 7) }
      try chunk.withUnsafeBytes { try encoder.encode($0) }
      return [UInt8(kind), 255] + encoder.withStored { Array($0.dropLast(4)) }
    }
  }

  static func run(_ input: [UInt8]) throws {
    var taker = Taker(input)
    let format = format(Int(taker.number(1)))
    let part = format.chunkBytes / format.elementBytes * Int(taker.number(1)) / 255 * format.elementBytes
    let body = Array(taker.rest)
    let sum = body.withUnsafeBytes { CRC32C.checksum($0.bytes) }
    let stored = body + bytes(UInt64(sum), 4)
    var decoder = try ChunkDecoder(format)
    var chunk = [UInt8](repeating: 0xA5, count: format.chunkBytes)
    let fault = decode(stored, &decoder, into: &chunk)
    require(fault != .checksum, "a right checksum was refused")
    var first = [UInt8](repeating: 0x5A, count: part)
    require(decode(stored, &decoder, into: &first) == fault, "a part has another fault than the whole")
    guard fault == nil else { return }
    require(first.elementsEqual(chunk.prefix(part)), "a part is not that of the whole")
    // Decoded elements are equal after encoding and decoding again.
    var encoder = try ChunkEncoder(format)
    try chunk.withUnsafeBytes { try encoder.encode($0) }
    var again = [UInt8](repeating: 0, count: format.chunkBytes)
    let own = encoder.withStored { Array($0) }
    require(decode(own, &decoder, into: &again) == nil, "our own chunk is refused")
    require(again == chunk, "another chunk came back")
  }

  private static func decode(_ stored: [UInt8], _ decoder: inout ChunkDecoder, into chunk: inout [UInt8])
    -> ChunkFault?
  {
    stored.withUnsafeBytes { stored in
      chunk.withUnsafeMutableBytes { chunk in
        do throws(ChunkFault) {
          try decoder.decode(stored, into: chunk)
          return nil
        } catch { return error }
      }
    }
  }
}
