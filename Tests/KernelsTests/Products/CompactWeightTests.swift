import CKernels
import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// Compact weights: the same as their dense forms, in every product, type and way of reading.
@Suite struct CompactWeightTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  @Test(arguments: [0, 1, 2], [0, 1, 7, 8, 9, 31, 32, 33, 64, 100, 517])
  func expansionIsThatOfOneElementAtATime(_ tier: Int32, _ n: Int) throws {
    var random = SeededRandom(seed: UInt64(n))
    defer { _ = espalier_isa_limit(99) }
    _ = espalier_isa_limit(tier)
    for density in [0.0, 0.3, 0.5, 1.0] {
      let isKept = (0..<n).map { _ in Double.random(in: 0..<1, using: &random) < density }
      var bits = [UInt8](repeating: 0, count: (n + 7) / 8)
      for (index, kept) in isKept.enumerated() where kept { bits[index / 8] |= 1 << UInt8(index % 8) }
      let kept = isKept.count { $0 }
      // Bits past the last element are not looked at.
      if n % 8 > 0 { bits[n / 8] |= 0xFF << UInt8(n % 8) }
      for count in Set([0, kept / 2, max(0, kept - 1), kept]) {
        // Exactly `count` values, at an odd address, with others after them that must not be read.
        let values = (0..<count).map { UInt32($0) &* 0x9E37_79B9 | 1 }
        var expected: [UInt32] = []
        var next = 0
        for isKept in isKept {
          expected.append(isKept && next < count ? values[next] : 0)
          next += isKept ? 1 : 0
        }
        guard n > 0 else { continue }
        for size in [2, 4] {
          let bytes =
            [0]
            + values.flatMap { value in (0..<size).map { UInt8(truncatingIfNeeded: value >> UInt32(8 * $0)) }
            }
            + [UInt8](repeating: 0xEE, count: 64)
          bytes.withUnsafeBytes { bytes in
            let start = bytes.baseAddress! + 1
            if size == 2 {
              var output = [UInt16](repeating: 1, count: n)
              var span = output.mutableSpan
              #expect(espalier_expand_16(bits.span, count, start, &span) == kept)
              #expect(output == expected.map { UInt16(truncatingIfNeeded: $0) })
            } else {
              var output = [UInt32](repeating: 1, count: n)
              var span = output.mutableSpan
              #expect(espalier_expand_32(bits.span, count, start, &span) == kept)
              #expect(output == expected)
            }
          }
        }
      }
    }
  }

  /// The compact matrix `m` and the dense one beside it.
  private func weights(
    _ tensors: CompactTensors, isTwoOfFour: Bool, reading: ReadMode, mask: Mask? = nil
  ) throws -> (compact: LinearWeight, dense: LinearWeight) {
    let path = folder.path + "/\(tensors.rows)x\(tensors.columns)-\(tensors.dtype)-\(isTwoOfFour)"
    try tensors.write(to: path, isTwoOfFour: isTwoOfFour)
    let checkpoint = try Checkpoint(folder: path, reading: reading)
    let shape = [tensors.rows, tensors.columns]
    let compact = try checkpoint.tensor("m.weight", shape: shape)
    guard case .compact = compact else { throw EspalierError.internalFault("the matrix is not compact") }
    return (
      try LinearWeight(compact, mask: mask),
      try LinearWeight(checkpoint.tensor("dense", shape: shape), mask: mask)
    )
  }

  @Test(
    arguments: [DType.f32, .bf16, .f16], [(1, 1), (2, 8), (17, 33), (40, 600), (193, 260), (33, 1021)])
  func productsAreThoseOfTheDenseMatrix(_ dtype: DType, _ shape: (rows: Int, columns: Int)) throws {
    var random = SeededRandom(seed: 9)
    for isTwoOfFour in [false, true] where !isTwoOfFour || shape.columns % 4 == 0 {
      let tensors = CompactTensors(
        rows: shape.rows, columns: shape.columns, dtype: dtype, isTwoOfFour: isTwoOfFour, seed: 3)
      var mask = Mask(rows: shape.rows, columns: shape.columns, pattern: .rows(sparsity: 0.5))
      for row in 0..<shape.rows {
        for column in 0..<shape.columns { mask[row, column] = Bool.random(using: &random) }
      }
      for reading in ReadMode.allCases {
        for mask in [nil, mask] {
          let (compact, dense) = try weights(tensors, isTwoOfFour: isTwoOfFour, reading: reading, mask: mask)
          #expect(compact.matrix(0..<shape.rows).array() == dense.matrix(0..<shape.rows).array())
          for rows in [0..<shape.rows, shape.rows / 2..<shape.rows, 0..<1] {
            let ours = compact.maskedBytes(rows)
            let theirs = dense.maskedBytes(rows)
            #expect(ours.withUnsafe { Array($0) } == theirs.withUnsafe { Array($0) })
          }
          for precision in Precision.allCases where precision.isAvailable {
            for tier: Int32 in [0, 1, 2] where precision == .f32 || tier == 2 {
              defer { _ = espalier_isa_limit(99) }
              _ = espalier_isa_limit(tier)
              var x = random.matrix(5, shape.columns)
              let packed = PackedMatrix(rounding: &x, precision, on: device)
              var y = Matrix(rows: 5, columns: shape.rows)
              var z = Matrix(rows: 5, columns: shape.rows)
              linear(packed, compact, into: &y, on: device)
              linear(packed, dense, into: &z, on: device)
              #expect(y.array() == z.array())
            }
          }
        }
      }
    }
  }

  @Test func aMatrixByColumnsIsExpandedAndTransposed() throws {
    let tensors = CompactTensors(rows: 21, columns: 50, dtype: .bf16, seed: 4)
    let (compact, dense) = try weights(tensors, isTwoOfFour: false, reading: .map)
    let ours = try LinearWeight(compact.tensor, order: .columns, pruned: nil)
    let theirs = try LinearWeight(dense.tensor, order: .columns, pruned: nil)
    #expect(ours.rows == 50 && ours.matrix(0..<50).array() == theirs.matrix(0..<50).array())
  }

  /// What compressed-tensors compresses and gives back.
  @Test func matricesOfCompressedTensorsAreRead() throws {
    try Folder.writeAtomically(Array("{}".utf8), to: folder.path + "/config.json")
    try Folder.writeAtomically(
      Folder.read(Places.golden + "/compact.safetensors"), to: folder.path + "/model.safetensors")
    let checkpoint = try Checkpoint(folder: folder.path)
    let modules = [
      "bitmask.bf16", "bitmask.f16", "bitmask.f32", "bitmask.empty", "two_of_four.bf16", "two_of_four.f32",
    ]
    #expect(Set(checkpoint.tensors.keys) == Set(modules.flatMap { ["\($0).weight", "dense.\($0)"] }))
    for module in modules {
      let tensor = try #require(checkpoint.tensors[module + ".weight"])
      let dense = try #require(checkpoint.tensors["dense." + module]).dense()
      #expect(tensor.shape == dense.shape && tensor.dtype == dense.dtype)
      let ours = try LinearWeight(tensor).maskedBytes(0..<dense.shape[0])
      #expect(ours.withUnsafe { Array($0) } == dense.withBytes { Array($0) }, "\(module)")
    }
  }
}
