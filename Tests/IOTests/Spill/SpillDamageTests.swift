import EspalierCore
import Testing

@testable import EspalierIO

/// Whatever happens to its files, an array gives the values that were written or throws an error.
@Suite struct SpillDamageTests {
  static let codecs: [SpillCodec] = [.none, .lz4, .zstd(level: 1)]

  /// A small array of several shards, its files changed one at a time.
  private struct Subject {
    let folder: SpillFolder
    let layout: SpillLayout
    let values: [Float]
    var path: String { folder / "a" }
    var shards: [String] { (0..<layout.shardCount).map { layout.path(ofShard: $0, in: path) } }

    init(_ codec: SpillCodec) throws {
      folder = try SpillFolder()
      layout = try SpillLayout.small([5, 3, 7], .bf16, codec)
      values = layout.exactValues()
      try layout.write(values, to: path)
    }

    /// The values; nil if reading everything fails with a typed error that says what to do.
    func read() throws -> [Float]? {
      do {
        let array = try SpillArray(folder: path, sizes: SpillLayout.small)
        #expect(array.layout.count == layout.count && array.element == layout.element)
        return try array.values(0..<layout.sequences)
      } catch let error as EspalierError {
        #expect(error.code == .badInput)
        #expect(error.description.contains("it is recomputed"))
        return nil
      }
    }

    // Not truncated first, since ext4 would then wait for the disk on every close.
    func put(_ bytes: [UInt8], _ path: String) throws {
      let file = try File(writing: path)
      try file.resize(to: bytes.count)
      try file.write(bytes, at: 0)
    }
  }

  @Test(arguments: codecs) func everyFlippedByteOfAShardIsNoticed(codec: SpillCodec) throws {
    let subject = try Subject(codec)
    #expect(subject.shards.count == 3)
    for shard in subject.shards {
      let good = try Folder.read(shard)
      for place in good.indices {
        for change in [0x01, 0xFF] as [UInt8] {
          var bad = good
          bad[place] ^= change
          try subject.put(bad, shard)
          #expect(try subject.read() == nil)
        }
      }
      try subject.put(good, shard)
    }
    #expect(try subject.read() == subject.values)
  }

  @Test(arguments: codecs) func everyOtherLengthOfAShardIsNoticed(codec: SpillCodec) throws {
    let subject = try Subject(codec)
    for shard in subject.shards {
      let good = try Folder.read(shard)
      for bad in (0..<good.count).map({ Array(good[..<$0]) }) + [good + [0], [0] + good, good + good] {
        try subject.put(bad, shard)
        #expect(try subject.read() == nil)
      }
      try subject.put(good, shard)
    }
  }

  @Test func everyFlippedByteOfTheDescriptionIsNoticedOrMeansNothing() throws {
    // A chunk holds 2 of the 3 tokens: 3 and 4 tokens have the same chunks; only the checksum differs.
    let subject = try Subject(.zstd(level: 1))
    let file = subject.path + "/zarr.json"
    let good = try Folder.read(file)
    for place in good.indices {
      let isDigit = good[place] >= 0x30 && good[place] <= 0x39
      for change in (isDigit ? [1, 2, 4, 8] : [1]) as [UInt8] {
        var bad = good
        bad[place] ^= change
        try subject.put(bad, file)
        if let values = try subject.read() { #expect(values == subject.values) }
      }
    }
    // Every length near the end, where a cut leaves most of a description.
    for length in Array(stride(from: 0, to: good.count - 60, by: 7)) + Array(good.count - 60..<good.count) {
      try subject.put(Array(good[..<length]), file)
      #expect(try subject.read() == nil)
    }
    try subject.put(good + [0x0A], file)
    #expect(try subject.read() == subject.values)
  }

  @Test func membersThatAreMissingStrangeOrTooManyAreRefused() throws {
    let subject = try Subject(.lz4)
    let file = subject.path + "/zarr.json"
    let good = try Folder.readJSON(file)
    let members = try #require(good.object).members
    for (number, member) in members.enumerated() {
      for value in [
        nil, 7, "x", [], [:], .null, .integer(.max), [.integer(.max), .integer(.max), .integer(.max)],
      ] as [JSON?] {
        var changed = members
        if let value { changed[number].value = value } else { changed.remove(at: number) }
        // The empty list is what this one holds.
        guard member.key != "storage_transformers" || value != [] else { continue }
        try subject.put(Array(JSON.object(JSONObject(changed)).text.utf8), file)
        #expect(try subject.read() == nil)
      }
    }
    try subject.put(Array(JSON.object(JSONObject(members + [(key: "x", value: 1)])).text.utf8), file)
    #expect(try subject.read() == nil)
    // Another tool may write the same on one line and in another order.
    try subject.put(Array(JSON.object(JSONObject(members.reversed())).text.utf8), file)
    #expect(try subject.read() == subject.values)
  }

  @Test func shardsThatAreMissingTooManyOrNoFilesAreNoticed() throws {
    let subject = try Subject(.lz4)
    let shard = subject.shards[1]
    let good = try Folder.read(shard)
    try Folder.remove(shard)
    #expect(try subject.read() == nil)
    try Folder.create(shard)
    #expect(try subject.read() == nil)
    try Folder.remove(shard)
    try subject.put(good, shard)
    #expect(try subject.read() == subject.values)
    try Folder.create(subject.path + "/c/3")
    #expect(try subject.read() == nil)
    try Folder.remove(subject.path + "/c/3")
    try Folder.remove(subject.path + "/c")
    #expect(try subject.read() == nil)
  }

  /// Each shard is valid by itself; only the content digest depends on their order.
  @Test func exchangedShardsAreNoticedByTheContentDigest() throws {
    let subject = try Subject(.none)
    let (first, second) = try (Folder.read(subject.shards[0]), Folder.read(subject.shards[1]))
    try subject.put(second, subject.shards[0])
    try subject.put(first, subject.shards[1])
    let error = #expect(throws: EspalierError.self) {
      try SpillArray(folder: subject.path, sizes: SpillLayout.small).contentDigest()
    }
    #expect(error?.code == .badInput)
  }

  /// An index whose checksum is right, and whose entries are not.
  @Test func indexEntriesThatCannotBeAreRefused() throws {
    let subject = try Subject(.none)
    let shard = subject.shards[2]
    let good = try Folder.read(shard)
    let layout = subject.layout
    let start = good.count - layout.indexBytes
    func word(_ place: Int) -> UInt64 {
      good.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: start + place * 8, as: UInt64.self) }
    }
    let words = layout.chunksPerShard * 2
    #expect(word(words - 1) == .max, "the last shard is meant to be partial")
    for place in 0..<words {
      for value in [
        0, 1, 12, word(place) &+ 1, word(place) &- 1, UInt64(good.count), 1 << 32, 1 << 62, 1 << 63, .max - 1,
        .max,
      ]
      where value != word(place) {
        var bad = good
        bad.withUnsafeMutableBytes { bytes in
          bytes.storeBytes(of: value, toByteOffset: start + place * 8, as: UInt64.self)
          let checksum = CRC32C.plainChecksum(bytes.bytes.extracting(start..<bytes.count - 4))
          bytes.storeBytes(of: checksum, toByteOffset: bytes.count - 4, as: UInt32.self)
        }
        try subject.put(bad, shard)
        #expect(try subject.read() == nil)
      }
    }
  }

  @Test func errorsNameTheShardAndTheChunk() throws {
    let subject = try Subject(.zstd(level: 1))
    let shard = subject.shards[1]
    var bytes = try Folder.read(shard)
    bytes[2] ^= 1
    try subject.put(bytes, shard)
    let array = try SpillArray(folder: subject.path, sizes: SpillLayout.small)
    let error = #expect(throws: EspalierError.self) { try array.values(2..<3) }
    #expect(
      error?.description
        == "\(shard): chunk 0 does not have its checksum. Remove this artifact from the work folder or run "
        + "`espalier verify`; it is recomputed.")
    // The other shards are not affected.
    #expect(try array.values(0..<2) == Array(subject.values[..<(2 * 21)]))
  }
}
