import EspalierCore
import Testing

@testable import EspalierIO

/// The thread of a writer: its errors are thrown, it ends with the writer, and unfinished arrays are not read.
@Suite struct SpillWriterTests {
  @Test func howItIsAppendedChangesNoByte() throws {
    let folder = try SpillFolder()
    // More chunks than the ring holds.
    let layout = try SpillLayout.small([90, 3, 7], .f32)
    #expect(layout.chunkCount > 4 * SpillThread.slots(layout))
    let values = layout.exactValues()
    for (name, size) in [("one", 1), ("seven", 7), ("all", 90)] {
      var writer = try SpillWriter(folder: folder / name, layout: layout)
      for part in parts(of: 90, size: size) {
        try writer.append(values[part.lowerBound * 21..<part.upperBound * 21])
      }
      _ = try writer.finish()
    }
    for file in ["zarr.json"] + (0..<layout.shardCount).map({ "c/\($0)/0/0" }) {
      let first = try Folder.read(folder / "one/\(file)")
      #expect(try Folder.read(folder / "seven/\(file)") == first)
      #expect(try Folder.read(folder / "all/\(file)") == first)
    }
  }

  /// A file stands where the second shard's folder goes.
  @Test func errorsOfTheThreadComeOut() throws {
    let folder = try SpillFolder()
    let layout = try SpillLayout.small([30, 3, 7], .f32, .none)
    var values = layout.exactValues()
    var writer = try SpillWriter(folder: folder / "a", layout: layout)
    _ = try File(writing: folder / "a/c/1")
    var errors: [String] = []
    for _ in 0..<30 {
      // Read from no more once append has returned.
      values.withUnsafeMutableBufferPointer { $0[0] += 1 }
      do { try writer.append(values[..<21]) } catch { errors.append("\(error)") }
    }
    do { _ = try writer.finish() } catch { errors.append("\(error)") }
    #expect(Set(errors).count == 1 && errors[0].contains("/a/c/1"), "\(errors)")
    #expect(try Folder.entry(folder / "a/zarr.json") == nil)
  }

  @Test func anErrorOfTheLastChunksComesOutOfFinish() throws {
    let folder = try SpillFolder()
    let layout = try SpillLayout.small([5, 3, 7], .bf16, .lz4)
    #expect(layout.chunkCount <= SpillThread.slots(layout))
    let values = layout.exactValues()
    let error = #expect(throws: EspalierError.self) {
      var writer = try SpillWriter(folder: folder / "a", layout: layout)
      _ = try File(writing: folder / "a/c/\(layout.shardCount - 1)")
      try writer.append(values[...])
      _ = try writer.finish()
    }
    #expect(error?.code == .io)
  }

  /// After any number of sequences: there is no array, no thread still writes, and the memory is free.
  @Test func aWriterThatIsDroppedLeavesNothingBehind() throws {
    let folder = try SpillFolder()
    let layout = try SpillLayout.small([40, 3, 7], .f32)
    let values = layout.exactValues()
    for count in 0...40 {
      weak var thread: SpillThread?
      do {
        var writer = try SpillWriter(folder: folder / "a", layout: layout)
        thread = writer.thread
        try writer.append(values[..<(count * 21)])
      }
      #expect(thread == nil)
      let error = #expect(throws: EspalierError.self) {
        try SpillArray(folder: folder / "a", sizes: SpillLayout.small)
      }
      #expect(error?.code == .badInput)
      try Folder.remove(folder / "a")
    }
    #expect(try Folder.names(in: folder.path).isEmpty)
  }

  /// What a kill leaves: the shards so far, the last of them cut anywhere, and no description or part of one
  /// under its temporary name.
  @Test func whatAKillLeavesIsNoArray() throws {
    let folder = try SpillFolder()
    let layout = try SpillLayout.small([5, 3, 7])
    try layout.write(layout.exactValues(), to: folder / "whole")
    let metadata = try Folder.read(folder / "whole/zarr.json")
    let shards = try (0..<layout.shardCount).map { try Folder.read(folder / "whole/c/\($0)/0/0") }
    func isRefused() -> Bool {
      do {
        _ = try SpillArray(folder: folder / "a", sizes: SpillLayout.small)
        return false
      } catch let error as EspalierError {
        return error.code == .badInput
      } catch {
        return false
      }
    }
    for (number, shard) in shards.enumerated() {
      try Folder.create(folder / "a/c/\(number)/0")
      for length in [0, 1, shard.count / 2, shard.count - 1, shard.count] {
        let file = try File(writing: folder / "a/c/\(number)/0/0")
        try file.resize(to: length)
        try file.write(Array(shard[..<length]), at: 0)
        #expect(isRefused())
      }
    }
    for length in [0, metadata.count / 2, metadata.count] {
      let file = try File(writing: folder / "a/zarr.json.partial")
      try file.resize(to: length)
      try file.write(Array(metadata[..<length]), at: 0)
      #expect(isRefused())
    }
    // Everything but the rename was done; with it the array is whole.
    try File(writing: folder / "a/zarr.json").write(metadata, at: 0)
    #expect(!isRefused())
  }

  @Test func theFirstChunkDecidesWhetherToCompress() throws {
    let folder = try SpillFolder()
    var numbers = SpillNumbers(seed: 4)
    let sizes = SpillLayout.Sizes(chunkBytes: 4096, shardBytes: 16384)
    let random = (0..<8192).map { _ in
      Float(bitPattern: UInt32.random(in: 0 ... .max, using: &numbers) & ~0x4000_0000)
    }
    let few = (0..<8192).map { _ in Float(Int.random(in: -3...3, using: &numbers)) }
    for element in [SpillElement.f32, .bf16] {
      let layout = try SpillLayout(
        sequences: 8, tokens: 16, width: 64, element: element, codec: .preferred, sizes: sizes)
      for (name, values, codec) in [
        ("random", random, SpillCodec.none), ("few", few, .preferred),
        ("random first", Array(random[..<4096] + few[..<4096]), .none),
        ("few first", Array(few[..<4096] + random[..<4096]), .preferred),
      ] {
        var digests = Set<Digest>()
        for (number, isOpen) in [true, true, false].enumerated() {
          let path = folder / "\(name) \(element) \(number)"
          var writer = try SpillWriter(folder: path, layout: layout, ifWorthwhile: isOpen)
          for part in parts(of: 8, size: [1, 8, 3][number]) {
            try writer.append(values[part.lowerBound * 1024..<part.upperBound * 1024])
          }
          let digest = try writer.finish()
          let array = try SpillArray(folder: path, sizes: sizes)
          #expect(array.codec == (isOpen ? codec : .preferred))
          #expect(try array.contentDigest() == digest)
          if element == .f32 { #expect(try array.values(0..<8).bits == values.bits) }
          digests.insert(digest)
        }
        #expect(digests.count == 1)
      }
    }
  }

  @Test func memoryIsBoundedForEveryShape() throws {
    for (sequences, tokens, width) in [(128, 2048, 64), (128, 2048, 4096), (1024, 4096, 16384), (1, 1, 1)] {
      for element in SpillElement.allCases {
        for codec in [SpillCodec.none, .lz4, .zstd(level: 1)] {
          let layout = try SpillLayout(
            sequences: sequences, tokens: tokens, width: width, element: element, codec: codec)
          #expect(SpillWriter.byteCount(of: layout) <= 20 << 20)
          #expect(SpillArray.byteCount(of: layout) <= (2 << 20) + layout.largestByteCount / 30_000)
        }
      }
    }
  }
}
