import EspalierCore
import Foundation

@testable import EspalierIO

/// A folder for one test, removed with its contents when its owner is gone.
final class SpillFolder: Sendable {
  let path: String

  init() throws {
    path = NSTemporaryDirectory() + "espalier-" + UUID().uuidString
    try Folder.create(path)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  static func / (folder: SpillFolder, name: String) -> String { folder.path + "/" + name }
}

/// The same numbers in every run (SplitMix64).
struct SpillNumbers: RandomNumberGenerator {
  var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = (state ^ state >> 30) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
    return mixed ^ mixed >> 31
  }
}

extension SpillLayout {
  /// Chunks of few tokens and shards of few sequences, so that small arrays have many of both.
  static let small = Sizes(chunkBytes: 32, shardBytes: 100)

  static func small(
    _ shape: [Int], _ element: SpillElement = .bf16, _ codec: SpillCodec = .zstd(level: 1)
  ) throws -> SpillLayout {
    try SpillLayout(
      sequences: shape[0], tokens: shape[1], width: shape[2], element: element, codec: codec, sizes: small)
  }

  var count: Int { sequences * tokens * width }

  /// Values that every element type represents exactly.
  func exactValues(seed: UInt64 = 1) -> [Float] {
    var numbers = SpillNumbers(seed: seed)
    return (0..<count).map { _ in Float(Int.random(in: -120...120, using: &numbers)) / 8 }
  }

  /// Writes these values, in parts of random numbers of sequences.
  @discardableResult
  func write(_ values: [Float], to folder: String) throws -> Digest {
    var writer = try SpillWriter(folder: folder, layout: self)
    var numbers = SpillNumbers(seed: UInt64(count))
    var first = 0
    while first < sequences {
      let last = min(sequences, first + Int.random(in: 0...3, using: &numbers))
      try writer.append(values[first * valuesPerSequence..<last * valuesPerSequence])
      first = last
    }
    return try writer.finish()
  }
}

extension SpillWriter {
  mutating func append(_ values: ArraySlice<Float>) throws {
    try values.withUnsafeBufferPointer { try append($0) }
  }
}

extension SpillArray {
  func values(_ range: Range<Int>, threads: Int = 1) throws -> [Float] {
    var values = [Float](repeating: -1, count: range.count * layout.valuesPerSequence)
    try values.withUnsafeMutableBufferPointer { try read(range, into: $0, threads: threads) }
    return values
  }
}

extension Sequence<Float> {
  /// The bits: NaN equals NaN, and -0 differs from 0.
  var bits: [UInt32] { map(\.bitPattern) }
}
