import EspalierCore
import Testing

@testable import EspalierIO

@Suite struct ChunkCodecTests {
  static let codecs: [SpillCodec] = [.none, .lz4, .zstd(level: 1), .zstd(level: 19)]

  @Test func checksumsOfRFC3720() {
    let vectors: [(bytes: [UInt8], checksum: UInt32)] = [
      ([], 0), (Array("123456789".utf8), 0xE306_9283), (Array(repeating: 0, count: 32), 0x8A91_36AA),
      (Array(repeating: 0xFF, count: 32), 0x62A8_AB43), (Array(0..<32), 0x46DD_794E),
      (Array((0..<32).reversed()), 0x113F_DB5C),
    ]
    for (bytes, checksum) in vectors {
      #expect(CRC32C.checksum(bytes.span.bytes) == checksum)
      #expect(CRC32C.plainChecksum(bytes.span.bytes) == checksum)
    }
  }

  @Test func checksumsByInstructionAndByTableAreEqual() {
    var numbers = SpillNumbers(seed: 3)
    let bytes = (0..<400).map { _ in UInt8.random(in: 0...255, using: &numbers) }
    for start in 0..<9 {
      for end in start...bytes.count {
        let part = bytes.span.extracting(start..<end).bytes
        let (fast, plain) = (CRC32C.checksum(part), CRC32C.plainChecksum(part))
        #expect(fast == plain)
      }
    }
  }

  @Test func eachPieceHasItsChecksum() {
    var numbers = SpillNumbers(seed: 4)
    let bytes = (0..<700).map { _ in UInt8.random(in: 0...255, using: &numbers) }
    for piece in [1, 7, 8, 64, 100] {
      for count in [0, 1, piece, 3 * piece - 1, 3 * piece, 3 * piece + 1, 7 * piece] {
        var found = [UInt32](repeating: 0, count: 8)
        let number = CRC32C.checksums(bytes.span.extracting(0..<count).bytes, ofEach: piece, into: &found)
        #expect(number == (count + piece - 1) / piece)
        for index in 0..<number {
          let part = bytes.span.extracting(index * piece..<min(count, (index + 1) * piece)).bytes
          let expected = CRC32C.plainChecksum(part).littleEndian
          #expect(found[index] == expected, "\(count) bytes in pieces of \(piece)")
        }
      }
    }
  }

  @Test func bytesOfElementsAreShuffledAsInNumcodecs() throws {
    func shuffled(_ bytes: [UInt8], _ elementBytes: Int) throws -> [UInt8] {
      try stored(
        bytes,
        ChunkFormat(
          codec: .none, elementBytes: elementBytes, elements: bytes.count / elementBytes, isShuffled: true)
      ).dropLast(4)
    }
    #expect(try shuffled([1, 2, 3, 4, 5, 6], 2) == [1, 3, 5, 2, 4, 6])
    #expect(try shuffled([UInt8](1...8), 4) == [1, 5, 2, 6, 3, 7, 4, 8])
  }

  @Test func lz4BeginsWithTheLength() throws {
    let stored = try stored(
      [UInt8](repeating: 9, count: 600), ChunkFormat(codec: .lz4, elementBytes: 2, elements: 300))
    #expect(stored.prefix(4) == [0x58, 0x02, 0, 0])
    #expect(stored.count < 50)
  }

  @Test(arguments: codecs) func chunksComeBack(codec: SpillCodec) throws {
    var numbers = SpillNumbers(seed: 5)
    for (elementBytes, elements) in [(2, 1), (2, 7), (4, 1), (4, 5), (2, 4096), (4, 1000), (2, 65), (4, 131)]
    {
      for isShuffled in [false, true] {
        let format = ChunkFormat(
          codec: codec, elementBytes: elementBytes, elements: elements, isShuffled: isShuffled)
        for range in [0...0, 0...3, 0...255] as [ClosedRange<UInt8>] {
          let chunk = (0..<format.chunkBytes).map { _ in UInt8.random(in: range, using: &numbers) }
          let stored = try stored(chunk, format)
          #expect(stored.count >= format.smallestStored && stored.count <= format.largestStored)
          for count in Set([elements, elements / 2, 1, 0]) {
            let first = Array(chunk[..<(count * elementBytes)])
            #expect(try decoded(stored, format, elements: count) == first)
          }
        }
      }
    }
  }

  /// A valid frame with a valid checksum but another size is refused, and nothing is written beyond the chunk.
  @Test(arguments: codecs) func chunksOfAnotherSizeAreRefused(codec: SpillCodec) throws {
    let format = ChunkFormat(codec: codec, elementBytes: 2, elements: 100)
    for elements in [1, 99, 101, 20_000] {
      let other = ChunkFormat(codec: codec, elementBytes: 2, elements: elements)
      let stored = try stored([UInt8](repeating: 1, count: other.chunkBytes), other)
      #expect(throws: ChunkFault.self) { try decoded(stored, format) }
    }
  }

  @Test(arguments: codecs) func hostileBytesWithAValidChecksumDoNoHarm(codec: SpillCodec) throws {
    var numbers = SpillNumbers(seed: 8)
    let format = ChunkFormat(codec: codec, elementBytes: 2, elements: 150)
    let good = try stored((0..<300).map { UInt8($0 / 16) }, format).dropLast(4)
    for _ in 0..<3000 {
      var body = Array(good)
      for _ in 0..<Int.random(in: 1...4, using: &numbers) {
        switch Int.random(in: 0...3, using: &numbers) {
        case 0 where body.count > 1: body.removeLast(Int.random(in: 1..<body.count, using: &numbers))
        case 1: body.append(UInt8.random(in: 0...255, using: &numbers))
        default:
          body[Int.random(in: 0..<body.count, using: &numbers)] = UInt8.random(in: 0...255, using: &numbers)
        }
      }
      // A fault or some chunk of the right size; `decoded` checks that nothing beyond it was written.
      _ = try? decoded(body + checksum(body), format)
    }
  }

  @Test(arguments: codecs) func damagedAndShortChunksAreRefused(codec: SpillCodec) throws {
    let format = ChunkFormat(codec: codec, elementBytes: 4, elements: 20)
    let good = try stored((0..<80).map { UInt8($0 % 7) }, format)
    for length in 0..<good.count {
      #expect(throws: ChunkFault.self) { try decoded(Array(good[..<length]), format) }
    }
    for place in good.indices {
      var bad = good
      bad[place] ^= 0x10
      #expect(throws: ChunkFault.checksum) { try decoded(bad, format) }
    }
  }

  @Test func codecsHaveTexts() {
    for (text, codec) in [
      ("none", SpillCodec.none), ("lz4", .lz4), ("zstd:1", .zstd(level: 1)), ("zstd:19", .zstd(level: 19)),
    ] {
      #expect(SpillCodec(text) == codec)
      #expect(codec.description == text)
    }
    #expect(SpillCodec("zstd") == .zstd(level: 1))
    for text in [
      "", "gzip", "zstd:", "zstd:0", "zstd:20", "zstd:-3", "zstd:+3", "zstd:03", "zstd:3 ", "ZSTD", "lz4:1",
    ] {
      #expect(SpillCodec(text) == nil)
    }
  }

  private func checksum(_ body: [UInt8]) -> [UInt8] {
    let checksum = CRC32C.plainChecksum(body.span.bytes)
    return (0..<4).map { UInt8(truncatingIfNeeded: checksum >> (8 * $0)) }
  }

  private func stored(_ chunk: [UInt8], _ format: ChunkFormat) throws -> [UInt8] {
    var encoder = try ChunkEncoder(format)
    try chunk.withUnsafeBytes { try encoder.encode($0) }
    return encoder.withStored { Array($0) }
  }

  private func decoded(_ stored: [UInt8], _ format: ChunkFormat, elements: Int? = nil) throws -> [UInt8] {
    var decoder = try ChunkDecoder(format)
    let count = elements.map { $0 * format.elementBytes } ?? format.chunkBytes
    var target = [UInt8](repeating: 0xA5, count: count + 64)
    defer {
      #expect(target[count...].allSatisfy { $0 == 0xA5 }, "bytes beyond the elements were written")
    }
    try target.withUnsafeMutableBytes { target in
      let chunk = UnsafeMutableRawBufferPointer(rebasing: target[..<count])
      try stored.withUnsafeBytes { try decoder.decode($0, into: chunk) }
    }
    return Array(target[..<count])
  }
}
