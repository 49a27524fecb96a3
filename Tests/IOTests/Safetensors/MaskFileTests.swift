import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierIO

@Suite struct MaskFileTests {
  private let folder: TemporaryFolder
  private var path: String { folder.path + "/m.safetensors" }

  init() throws { folder = try TemporaryFolder() }

  private func mask(_ rows: Int, _ columns: Int, _ pattern: SparsityPattern, _ random: inout SeededRandom)
    -> Mask
  {
    var mask = Mask(rows: rows, columns: columns, pattern: pattern)
    let span = pattern.span(ofColumns: columns)
    let kept =
      switch pattern {
      case .rows, .matrix: pattern.kept(ofColumns: columns)
      case .groups(let keep, _): keep
      }
    for row in 0..<rows {
      for start in stride(from: 0, to: columns, by: span) {
        for place in Array(0..<span).shuffled(using: &random).prefix(kept) { mask[row, start + place] = true }
      }
    }
    return mask
  }

  @Test(
    arguments: [
      (1, 1, .rows(sparsity: 0)), (1, 1, .rows(sparsity: 1)), (3, 7, .rows(sparsity: 0.5)),
      (4, 8, .rows(sparsity: 0.6)),
      (5, 9, .rows(sparsity: 1.0 / 3)), (2, 64, .rows(sparsity: 0.1)), (7, 65, .rows(sparsity: 0.99)),
      (0, 8, .rows(sparsity: 0.5)),
      (3, 4, .groups(keep: 2, of: 4)), (3, 12, .groups(keep: 2, of: 4)), (2, 64, .groups(keep: 4, of: 8)),
      (2, 21, .groups(keep: 1, of: 7)), (1, 6, .groups(keep: 0, of: 3)), (1, 6, .groups(keep: 3, of: 3)),
      (9, 32, .groups(keep: 16, of: 32)),
      (0, 4, .groups(keep: 2, of: 4)),
    ] as [(Int, Int, SparsityPattern)])
  func whatIsWrittenIsRead(rows: Int, columns: Int, pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: UInt64(rows * 100 + columns))
    for _ in 0..<4 {
      let mask = mask(rows, columns, pattern, &random)
      try MaskFile.write(mask, to: path)
      #expect(try MaskFile.read(path) == mask)
      // The layout that numpy.unpackbits(..., bitorder="little") opens.
      let kept = try SafetensorsFile(path: path).tensor("kept", dtype: .u8, shape: [rows, (columns + 7) / 8])
        .withBytes { Array($0) }
      for row in 0..<rows {
        for column in 0..<columns {
          #expect((kept[row * mask.rowBytes + column / 8] >> (column % 8) & 1 == 1) == mask[row, column])
        }
      }
    }
  }

  /// Every bit of the mask matters: one more or one less is off the pattern, or past the last column.
  @Test(
    arguments: [(3, 8, .rows(sparsity: 0.5)), (3, 5, .rows(sparsity: 0.4)), (2, 12, .groups(keep: 2, of: 4))]
      as [(Int, Int, SparsityPattern)])
  func everyFlippedBitIsNoticed(rows: Int, columns: Int, pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: 3)
    try MaskFile.write(mask(rows, columns, pattern, &random), to: path)
    let good = try Folder.read(path)
    let data = rows * Mask.rowBytes(columns)
    for bit in 0..<data * 8 {
      var bad = good
      bad[good.count - data + bit / 8] ^= 1 << (bit % 8)
      try File(writing: path).write(bad, at: 0)
      let error = #expect(throws: EspalierError.self) { try MaskFile.read(path) }
      #expect(
        error?.code == .badInput
          && error?.description.hasPrefix("\(path): row \(bit / 8 / Mask.rowBytes(columns)) ") == true)
    }
  }

  /// Bits past the last column do not count, even if they make up for a missing one.
  @Test func bitsPastTheLastColumnAreRefused() throws {
    for (metadata, bits) in [
      ([("columns", "5"), ("sparsity", "0.4")], 0b0010_0011),
      ([("columns", "4"), ("keep", "2"), ("of", "4")], 0b0001_0011),
    ]
      as [([(String, String)], UInt8)]
    {
      var writer = try SafetensorsWriter(path: path, tensors: [("kept", .u8, [1, 1])], metadata: metadata)
      try writer.append([bits])
      try writer.finish()
      let error = #expect(throws: EspalierError.self) { try MaskFile.read(path) }
      #expect(
        error?.description == "\(path): row 0 has bits past column \(metadata[0].1); the file is damaged.")
    }
  }

  @Test(
    arguments: [
      ([], [2, 1], DType.u8, "kept"), ([("columns", "8")], [2, 1], .u8, "kept"),
      ([("columns", "8"), ("keep", "2")], [2, 1], .u8, "kept"),
      ([("columns", "8"), ("of", "4")], [2, 1], .u8, "kept"),
      ([("columns", "eight"), ("sparsity", "1")], [2, 1], .u8, "kept"),
      ([("columns", "0"), ("sparsity", "1")], [2, 1], .u8, "kept"),
      ([("columns", "-8"), ("sparsity", "1")], [2, 1], .u8, "kept"),
      ([("columns", "9"), ("sparsity", "1")], [2, 1], .u8, "kept"),
      ([("columns", "16"), ("sparsity", "1")], [2, 1], .u8, "kept"),
      ([("columns", "9223372036854775807"), ("sparsity", "1")], [2, 1], .u8, "kept"),
      ([("columns", "9223372036854775807"), ("sparsity", "1")], [0, 1 << 60], .u8, "kept"),
      ([("columns", "8"), ("sparsity", "nan")], [2, 1], .u8, "kept"),
      ([("columns", "8"), ("sparsity", "1.01")], [2, 1], .u8, "kept"),
      ([("columns", "8"), ("sparsity", "-0.5")], [2, 1], .u8, "kept"),
      ([("columns", "8"), ("keep", "0"), ("of", "3")], [2, 1], .u8, "kept"),
      ([("columns", "8"), ("keep", "0"), ("of", "0")], [2, 1], .u8, "kept"),
      ([("columns", "8"), ("keep", "5"), ("of", "4")], [2, 1], .u8, "kept"),
      ([("columns", "8"), ("keep", "-1"), ("of", "4")], [2, 1], .u8, "kept"),
      ([("columns", "8"), ("keep", "0"), ("of", "-4")], [2, 1], .u8, "kept"),
      ([("columns", "8"), ("keep", "0"), ("of", "9223372036854775807")], [2, 1], .u8, "kept"),
      ([("columns", "8"), ("sparsity", "1")], [2], .u8, "kept"),
      ([("columns", "8"), ("sparsity", "1")], [2, 1, 1], .u8, "kept"),
      ([("columns", "8"), ("sparsity", "1")], [2, 1], .i8, "kept"),
      ([("columns", "8"), ("sparsity", "1")], [2, 1], .u8, "mask"),
    ] as [([(String, String)], [Int], DType, String)])
  func otherFilesAreRefused(metadata: [(String, String)], shape: [Int], dtype: DType, name: String) throws {
    var writer = try SafetensorsWriter(path: path, tensors: [(name, dtype, shape)], metadata: metadata)
    try writer.append([UInt8](repeating: 0, count: shape.reduce(1, *)))
    try writer.finish()
    let error = #expect(throws: EspalierError.self) { try MaskFile.read(path) }
    #expect(error?.code == .badInput && error?.subject == path)
  }

  @Test func cutAndMutatedFilesNeverTrap() throws {
    var random = SeededRandom(seed: 4)
    let mask = mask(3, 12, .groups(keep: 2, of: 4), &random)
    try MaskFile.write(mask, to: path)
    let good = try Folder.read(path)
    for _ in 0..<3000 {
      var bad = good
      for _ in 0..<Int.random(in: 1...3, using: &random) {
        bad[Int.random(in: 0..<bad.count, using: &random)] = UInt8.random(in: 0x20...0x7F, using: &random)
      }
      try File(writing: path).write(bad, at: 0)
      do {
        #expect(try MaskFile.read(path).firstRowOffPattern() == nil)
      } catch let error as EspalierError {
        #expect(error.code == .badInput && error.description.hasPrefix(path))
      }
    }
    for length in 0..<good.count {
      try File(writing: path, truncate: true).write(Array(good[..<length]), at: 0)
      #expect(throws: EspalierError.self) { try MaskFile.read(path) }
    }
  }
}
