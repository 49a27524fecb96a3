import EspalierCore
import Testing

@testable import EspalierIO

@Suite struct SpillTests {
  static let shapes = [
    [1, 1, 1], [1, 1, 7], [1, 5, 1], [3, 1, 1], [2, 3, 5], [7, 4, 3], [5, 9, 11], [11, 2, 33], [4, 16, 8],
    [9, 13, 3],
  ]
  static let codecs: [SpillCodec] = [.none, .lz4, .zstd(level: 1), .zstd(level: 7)]

  @Test(arguments: shapes, SpillElement.allCases)
  func everyCodecReadsBackAndHasTheSameDigest(shape: [Int], element: SpillElement) throws {
    let folder = try SpillFolder()
    var digests = Set<Digest>()
    for codec in Self.codecs {
      let layout = try SpillLayout.small(shape, element, codec)
      let values = layout.exactValues()
      let path = folder / codec.description
      let digest = try layout.write(values, to: path)
      let array = try SpillArray(folder: path, sizes: SpillLayout.small)
      #expect(array.layout == layout)
      #expect(array.recordedDigest == digest)
      #expect(try array.contentDigest() == digest)
      for first in 0..<layout.sequences {
        for last in Set([first, first + 1, (first + layout.sequences) / 2 + 1, layout.sequences])
        where last <= layout.sequences {
          array.prefetch(first..<last)
          let size = layout.valuesPerSequence
          let threads = 1 + last % 4
          #expect(
            try array.values(first..<last, threads: threads).bits == values[first * size..<last * size].bits)
          array.release(first..<last)
        }
      }
      digests.insert(digest)
    }
    #expect(digests.count == 1)
  }

  @Test func sizesFollowFromTheShapeAlone() throws {
    // sequences, tokens, width -> tokens a chunk, chunks a sequence, sequences a shard
    for (shape, sizes) in [
      ([128, 2048, 4096], [64, 32, 4]), ([128, 2048, 8192], [32, 64, 2]), ([3, 2048, 64], [2048, 1, 3]),
      ([1, 1, 1], [1, 1, 1]), ([5, 2047, 1025], [228, 9, 5]), ([2, 4096, 16384], [16, 256, 1]),
      ([2, 3, 1 << 20], [1, 3, 2]), ([100, 1, 1], [1, 1, 100]),
    ] {
      let layout = try SpillLayout(
        sequences: shape[0], tokens: shape[1], width: shape[2], element: .bf16, codec: .none)
      #expect([layout.chunkTokens, layout.chunksPerSequence, layout.sequencesPerShard] == sizes)
    }
    for shape in [
      [0, 1, 1], [1, 0, 1], [1, 1, 0], [-1, 1, 1], [1 << 40, 1 << 30, 1], [.max, .max, .max],
      [1, 1, 1 << 28],
    ] {
      #expect(throws: EspalierError.self) {
        try SpillLayout(sequences: shape[0], tokens: shape[1], width: shape[2], element: .bf16, codec: .none)
      }
    }
  }

  /// The bytes of a shard, put together here from the specification of Zarr's sharding codec.
  @Test func theLastShardIsPartialAsInZarr() throws {
    let folder = try SpillFolder()
    // Chunks of 2 tokens; 3 tokens a sequence, so that every second chunk is half zeros; 2 sequences a shard.
    let sizes = SpillLayout.Sizes(chunkBytes: 8, shardBytes: 24)
    let layout = try SpillLayout(
      sequences: 3, tokens: 3, width: 2, element: .bf16, codec: .none, sizes: sizes)
    #expect([layout.chunkTokens, layout.chunksPerSequence, layout.sequencesPerShard] == [2, 2, 2])
    var writer = try SpillWriter(folder: folder / "a", layout: layout)
    try writer.append([Float](repeating: 0, count: 12).span)
    try writer.append(([1, 2, 3, 4, 5, 6] as [Float]).span)
    let digest = try writer.finish()

    func little<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] {
      withUnsafeBytes(of: number.littleEndian) { Array($0) }
    }
    func checked(_ bytes: [UInt8]) -> [UInt8] {
      bytes + little(CRC32C.plainChecksum(bytes.span.bytes))
    }
    // 1 ... 6 in bf16: 3F80 4000 4040 4080 40A0 40C0
    let chunks =
      checked([0x80, 0x3F, 0x00, 0x40, 0x40, 0x40, 0x80, 0x40])
      + checked([0xA0, 0x40, 0xC0, 0x40, 0, 0, 0, 0])
    let index = [0, 12, 12, 12, .max, .max, .max, .max].map { little($0 as UInt64) }
    #expect(try Folder.read(folder / "a/c/1/0/0") == chunks + checked(index.flatMap { $0 }))
    #expect(try Folder.names(in: folder / "a/c") == ["0", "1"])

    // The elements of a chunk are fewer than 4 KiB, so it has one checksum.
    let content = [
      [0, 0, 0, 0], [0, 0], [0, 0, 0, 0], [0, 0], [0x3F80, 0x4000, 0x4040, 0x4080], [0x40A0, 0x40C0],
    ]
    func checksum(_ chunk: [Int]) -> [UInt8] {
      let bytes = chunk.flatMap { little(UInt16($0)) }
      return little(CRC32C.plainChecksum(bytes.span.bytes))
    }
    let checksums = content.flatMap(checksum)
    #expect(digest == SHA256.digest(of: [UInt8]("espalier spill 2\n3 3 2\nbf16\n".utf8) + checksums))
    let largest = try (0...1).reduce(0) { try $0 + Folder.read(folder / "a/c/\($1)/0/0").count }
    #expect(largest <= layout.largestByteCount)
  }

  @Test func f32KeepsEveryBit() throws {
    let folder = try SpillFolder()
    let bits: [UInt32] = [
      0x7F80_0001, 0x7FC1_2345, 0xFFBF_FFFF, 0x7F80_0000, 0xFF80_0000, 0x8000_0000, 1, 0x007F_FFFF,
      0x7F7F_FFFF, 0,
    ]
    for codec in Self.codecs {
      let layout = try SpillLayout.small([2, 5, 1], .f32, codec)
      try layout.write(bits.map(Float.init(bitPattern:)), to: folder / codec.description)
      #expect(
        try SpillArray(folder: folder / codec.description, sizes: SpillLayout.small).values(0..<2).bits
          == bits)
    }
  }

  @Test func contentDecidesTheDigest() throws {
    let folder = try SpillFolder()
    var digests = Set<Digest>()
    for (number, shape) in [[2, 3, 4], [3, 2, 4], [4, 3, 2], [1, 6, 4], [24, 1, 1]].enumerated() {
      for element in SpillElement.allCases {
        let layout = try SpillLayout.small(shape, element, .lz4)
        digests.insert(try layout.write([Float](repeating: 0, count: 24), to: folder / "\(number)\(element)"))
      }
    }
    #expect(digests.count == 15)
  }

  @Test func threadsReadAtOnce() async throws {
    let folder = try SpillFolder()
    let layout = try SpillLayout.small([40, 3, 5])
    let values = layout.exactValues()
    try layout.write(values, to: folder / "a")
    let array = try SpillArray(folder: folder / "a", sizes: SpillLayout.small)
    try await withThrowingTaskGroup(of: Bool.self) { group in
      for task in 0..<8 {
        group.addTask {
          for first in stride(from: task, to: 40, by: 3) {
            guard try array.values(first..<first + 1) == Array(values[first * 15..<(first + 1) * 15]) else {
              return false
            }
            array.release(first..<first + 1)
          }
          return true
        }
      }
      for try await equal in group { #expect(equal) }
    }
  }

  @Test func misuseIsAnErrorAndNotATrap() throws {
    let folder = try SpillFolder()
    let layout = try SpillLayout.small([3, 2, 2], .f16)
    func writer(_ name: String) throws -> SpillWriter {
      try SpillWriter(folder: folder / name, layout: layout)
    }
    func expect(_ code: EspalierError.Code, _ body: () throws -> Void) {
      let error = #expect(throws: EspalierError.self) { try body() }
      #expect(error?.code == code)
    }
    expect(.internalFault) {
      var writer = try writer("not whole")
      try writer.append(([1, 2, 3] as [Float]).span)
    }
    expect(.internalFault) {
      var writer = try writer("too many")
      try writer.append([Float](repeating: 0, count: 16).span)
    }
    expect(.internalFault) {
      var writer = try writer("too few")
      try writer.append([Float](repeating: 0, count: 8).span)
      _ = try writer.finish()
    }
    expect(.io) { _ = try writer("too few") }
    expect(.badInput) { _ = try SpillArray(folder: folder / "too few", sizes: SpillLayout.small) }
    expect(.badInput) { _ = try SpillArray(folder: folder / "nothing") }
    expect(.badInput) {
      var writer = try writer("too large")
      expect(.badInput) { try writer.append([Float](repeating: 1e5, count: 4).span) }
      try writer.append([Float](repeating: 0, count: 4).span)
    }
    try layout.write(layout.exactValues(), to: folder / "a")
    let array = try SpillArray(folder: folder / "a", sizes: SpillLayout.small)
    var values = [Float](repeating: 0, count: 8)
    for range in [0..<1, 0..<3, 2..<4, -1..<1] {
      expect(.internalFault) { try values.withUnsafeMutableBufferPointer { try array.read(range, into: $0) } }
      array.prefetch(range)
      array.release(range)
    }
    expect(.badInput) {
      _ = try SpillWriter(
        folder: folder / "b", sequences: 1, tokens: 0, width: 1, element: .f32, codec: .none)
    }
    #expect(try Folder.entry(folder / "b") == nil)
  }
}
