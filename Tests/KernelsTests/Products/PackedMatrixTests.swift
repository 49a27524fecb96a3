import CKernels
import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// Products of packed matrices, in both precisions: what they are, and what they do not depend on.
@Suite struct PackedMatrixTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  private func weight(_ values: borrowing Matrix, _ dtype: DType, mask: Mask? = nil) throws -> LinearWeight {
    let path = folder.path + "/\(values.rows)x\(values.columns)-\(dtype).safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("w", dtype, [values.rows, values.columns])])
    if dtype == .bf16 {
      let bits = values.array().flatMap { value -> [UInt8] in
        let half = value.bitPattern >> 16
        return [UInt8(half & 0xFF), UInt8(half >> 8)]
      }
      try writer.append(bits)
    } else {
      try writer.append(values.array())
    }
    try writer.finish()
    return try LinearWeight(SafetensorsFile(path: path).tensor("w"), mask: mask)
  }

  /// Small integers: every sum is exact in f32, whatever its order, and every value in bf16.
  private func integers(_ rows: Int, _ columns: Int, seed: UInt64) -> Matrix {
    var random = SeededRandom(seed: seed)
    var matrix = Matrix(rows: rows, columns: columns)
    for row in 0..<rows {
      for column in 0..<columns { matrix[row, column] = Float(Int.random(in: -9...9, using: &random)) }
    }
    return matrix
  }

  private static let precisions = Precision.allCases.filter(\.isAvailable)

  @Test(
    arguments: precisions,
    [(1, 1, 1), (7, 9, 2), (16, 48, 256), (17, 49, 257), (130, 200, 600), (515, 33, 31)])
  func productsOfIntegersAreExact(_ precision: Precision, _ shape: (tokens: Int, rows: Int, columns: Int))
    throws
  {
    let (tokens, rows, columns) = shape
    var x = integers(tokens, columns, seed: 1)
    let w = integers(rows, columns, seed: 2)
    var random = SeededRandom(seed: 3)
    var mask = Mask(rows: rows, columns: columns, pattern: .rows(sparsity: 0.5))
    for row in 0..<rows { for column in 0..<columns { mask[row, column] = Bool.random(using: &random) } }
    let packed = PackedMatrix(rounding: &x, precision, on: device)
    for dtype in [DType.f32, .bf16] {
      let weight = try weight(w, dtype, mask: mask)
      var y = Matrix(rows: tokens + 2, columns: rows)
      linear(packed, weight, into: &y, at: 1, on: device)
      linear(packed, weight, adding: true, into: &y, at: 1, on: device)
      for token in 0..<tokens {
        for row in 0..<rows {
          let sum = (0..<columns).reduce(Float(0)) { $0 + (mask[row, $1] ? x[token, $1] * w[row, $1] : 0) }
          #expect(y[token + 1, row] == 2 * sum)
        }
      }
      for row in 0..<rows { #expect(y[0, row] == 0 && y[tokens + 1, row] == 0) }
    }
  }

  @Test(arguments: precisions) func aRowDependsOnNothingBesideIt(_ precision: Precision) throws {
    var random = SeededRandom(seed: 5)
    let (tokens, rows, columns) = (700, 210, 700)
    var x = random.matrix(tokens, columns)
    let weight = try weight(random.matrix(rows, columns), precision == .bf16 ? .bf16 : .f32)
    var all = Matrix(rows: tokens, columns: rows)
    linear(PackedMatrix(rounding: &x, precision, on: device), weight, into: &all, on: device)
    for range in [0..<1, 3..<20, 511..<513, 40..<700] {
      var some = Matrix(rows: range.count, columns: columns)
      for (index, row) in range.enumerated() { for k in 0..<columns { some[index, k] = x[row, k] } }
      var y = Matrix(rows: range.count, columns: rows)
      linear(PackedMatrix(rounding: &some, precision, on: device), weight, into: &y, on: device)
      for (index, row) in range.enumerated() {
        for k in 0..<rows { #expect(y[index, k] == all[row, k]) }
      }
    }
  }

  @Test(.enabled(if: Precision.bf16.isAvailable)) func inputsAreRoundedToTheNearestBF16() throws {
    var random = SeededRandom(seed: 8)
    var x = random.matrix(5, 333)
    let before = x.array()
    _ = PackedMatrix(rounding: &x, .bf16, on: device)
    for (value, old) in zip(x.array(), before) {
      #expect(value.bitPattern & 0xFFFF == 0)
      #expect(abs(value - old) <= abs(old) / 256)
    }
  }

  /// Bit for bit: a product is summed in runs of 128 steps, each from 0 on, whose sums are added up. AVX2 and AVX-512 fuse each
  /// multiplication with its addition, the plain instructions do not, and on these values that makes a difference.
  @Test(arguments: [0, 1, 2])
  func productsAreSummedInOneOrder(_ tier: Int32) throws {
    let (tokens, rows, columns) = (37, 70, 300)
    var random = SeededRandom(seed: 1)
    var x = random.matrix(tokens, columns)
    let w = random.matrix(rows, columns)
    let weight = try weight(w, .f32)
    var y = Matrix(rows: tokens, columns: rows)
    defer { _ = espalier_isa_limit(99) }
    // The processor may lack the best instructions; it then uses those below, which give the same products.
    let isFused = espalier_isa_limit(tier) > 0
    linear(PackedMatrix(rounding: &x, .f32, on: device), weight, into: &y, on: device)
    func expected(_ token: Int, _ row: Int, isFused: Bool) -> Float {
      var total: Float = 0
      for run in parts(of: columns, size: 128) {
        let sum = run.reduce(Float(0)) {
          isFused ? $0.addingProduct(x[token, $1], w[row, $1]) : $0 + x[token, $1] * w[row, $1]
        }
        total += sum
      }
      return total
    }
    var (wrong, different) = (0, 0)
    for token in 0..<tokens {
      for row in 0..<rows {
        wrong += y[token, row] == expected(token, row, isFused: isFused) ? 0 : 1
        different += y[token, row] == expected(token, row, isFused: !isFused) ? 0 : 1
      }
    }
    #expect(wrong == 0)
    #expect(different > tokens * rows / 4)
  }
}

extension PackedMatrixTests {
  @Test(.enabled(if: Precision.bf16.isAvailable)) func attentionInBF16IsNearAttentionInF32() {
    var random = SeededRandom(seed: 4)
    let (length, heads, keyHeads, headSize) = (77, 4, 2, 24)
    let q = random.matrix(2 * length, heads * headSize)
    let k = random.matrix(2 * length, keyHeads * headSize)
    let v = random.matrix(2 * length, keyHeads * headSize)
    let results = Precision.allCases.map { precision -> [Float] in
      var queries = Matrix(rows: q.rows, columns: q.columns, q.array())
      var keys = Matrix(rows: k.rows, columns: k.columns, k.array())
      var y = Matrix(rows: q.rows, columns: q.columns)
      attention(
        queries: &queries, keys: &keys, values: v, length: length,
        AttentionShape(
          heads: heads, keyHeads: keyHeads, headSize: headSize, valueSize: headSize,
          scale: 1 / Float(headSize).squareRoot()), precision, into: &y, on: device)
      return y.array()
    }
    let difference = zip(results[0], results[1]).reduce(0.0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) }
    let size = results[0].reduce(0.0) { $0 + Double($1 * $1) }
    #expect(difference > 0)
    #expect((difference / size).squareRoot() < 0.01)
  }
}
