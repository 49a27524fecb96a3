import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@Suite struct PackingTests {
  private let folder: TemporaryFolder
  private let path: String
  private let target: String

  init() throws {
    folder = try TemporaryFolder()
    path = folder.path + "/packed"
    target = folder.path + "/unpacked"
  }

  private func unpack(_ bytes: [UInt8], _ packing: Packing) throws -> [UInt8] {
    try Folder.writeAtomically(bytes, to: path)
    try packing.unpack(path, to: target)
    return try Folder.read(target)
  }

  /// Words, which become much smaller, and noise, which does not.
  private func text(_ count: Int, _ random: inout SeededRandom) -> [UInt8] {
    let words = Array(TinyCheckpoint.text(count / 2).utf8)
    return words + (words.count..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
  }

  @Test(arguments: Packing.allCases) func everySizeComesBack(_ packing: Packing) throws {
    var random = SeededRandom(seed: 8)
    for count in [0, 1, 2, 1000, 1 << 18, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_001] {
      let bytes = text(count, &random)
      let file = packed(bytes, packing)
      #expect(try unpack(file, packing) == bytes, "\(count)")
      if count > 1000 { #expect(packing.claimedByteCount(path) == count) }
    }
    let zeros = [UInt8](repeating: 0, count: 20_000_000)
    #expect(try unpack(packed(zeros, packing), packing) == zeros)
  }

  /// `cat a.gz b.gz` is a valid file of both, also for zstd; tapes pad gzip files with zeros.
  @Test(arguments: Packing.allCases) func membersFollowEachOther(_ packing: Packing) throws {
    var random = SeededRandom(seed: 9)
    for sizes in [[10, 20], [0, 5, 0], [1 << 20, 1 << 20], [300_000, 1, 700_000]] {
      let members = sizes.map { text($0, &random) }
      #expect(try unpack(members.flatMap { packed($0, packing) }, packing) == Array(members.joined()))
    }
    let filled = packed([1, 2, 3], .gzip) + [UInt8](repeating: 0, count: 1000)
    #expect(try unpack(filled, .gzip) == [1, 2, 3])
  }

  @Test(arguments: Packing.allCases) func whatIsCutOrDamagedIsNamed(_ packing: Packing) throws {
    var random = SeededRandom(seed: 10)
    let bytes = text(600, &random)
    let good = packed(bytes, packing)
    for count in good.indices {
      let error = #expect(throws: EspalierError.self) { try unpack(Array(good[..<count]), packing) }
      #expect(error?.code == .badInput && error?.subject == path)
    }
    for _ in 0..<2000 {
      var bad = good
      for _ in 0...Int.random(in: 0..<3, using: &random) {
        bad[Int.random(in: bad.indices, using: &random)] ^= 1 << UInt8.random(in: 0..<8, using: &random)
      }
      do {
        // Some bits of the header do not affect the content.
        #expect(try unpack(bad, packing) == bytes)
      } catch let error as EspalierError {
        #expect(error.code == .badInput && error.message.contains("fetch it again"))
      }
    }
    #expect(throws: EspalierError.self) { try unpack(good + [1], packing) }
    #expect(throws: EspalierError.self) { try unpack(bytes, packing) }
    #expect(throws: EspalierError.self) { try unpack([], packing) }
  }

  @Test func namesTellThePacking() {
    #expect(Packing(path: "a/c4-train.00000-of-01024.json.gz") == .gzip)
    #expect(Packing.gzip.unpackedName("a/b.json.gz") == "a/b.json")
    #expect(Packing(path: "x.jsonl.zst") == .zstd && Packing(path: "x.gz.txt") == nil)
  }

  /// The claimed size is not trusted.
  @Test(arguments: Packing.allCases) func claimsThatCannotBe(_ packing: Packing) throws {
    for bytes: [UInt8] in [
      [], [1], [UInt8](repeating: 0xFF, count: 17), [UInt8](repeating: 0xFF, count: 40),
      [UInt8](repeating: 0, count: 100),
    ] {
      try Folder.writeAtomically(bytes, to: path)
      #expect(packing.claimedByteCount(path) == 5 * bytes.count, "\(bytes.count)")
    }
    #expect(packing.claimedByteCount(folder.path + "/nothing") == 0)
  }
}
