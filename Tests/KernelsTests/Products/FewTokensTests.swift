import CKernels
import EspalierCore
import EspalierKernels
import EspalierTestSupport
import Testing

/// Products with few tokens, where a weight is dense or packed beside a bit mask.
@Suite struct FewTokensTests {
  private struct Weight {
    var dense: [UInt8] = []
    var values: [UInt8] = []
    var bits: [UInt8] = []
    var numbers: [Double] = []
  }

  /// Random rows with some zeros, and the same with only the others stored.
  private static func weight(_ type: Int32, rows: Int, columns: Int, kept: Double, seed: UInt64) -> Weight {
    var random = SeededRandom(seed: seed)
    var weight = Weight()
    for _ in 0..<rows {
      var bits = [UInt8](repeating: 0, count: (columns + 7) / 8)
      for column in 0..<columns {
        let isKept = Double.random(in: 0..<1, using: &random) < kept
        // Exact in f16 and in bf16.
        let number = isKept ? Float(Int(Double.random(in: 0..<1, using: &random) * 255) - 127) / 64 : 0
        let bytes = Self.bytes(number, type)
        weight.dense += bytes
        weight.numbers.append(Double(number))
        guard isKept else { continue }
        weight.values += bytes
        bits[column / 8] |= 1 << (column % 8)
      }
      weight.bits += bits
    }
    return weight
  }

  private static func bytes(_ number: Float, _ type: Int32) -> [UInt8] {
    switch type {
    case Int32(ESPALIER_F32): return withUnsafeBytes(of: number.bitPattern.littleEndian, Array.init)
    case Int32(ESPALIER_BF16):
      return withUnsafeBytes(of: UInt16(number.bitPattern >> 16).littleEndian, Array.init)
    default:
      var half: UInt16 = 0
      withUnsafePointer(to: number) { espalier_f32_to_f16(1, $0, &half) }
      return withUnsafeBytes(of: half.littleEndian, Array.init)
    }
  }

  /// The product by the kernel, `tokens x rows`; the stored bytes are copied to the end of a buffer, so that nothing lies behind them.
  private static func product(
    _ type: Int32, _ weight: Weight, isCompact: Bool, rows: Int, columns: Int, tokens: Int, x: [Float],
    isPaired: Bool, adding: Bool = false
  ) -> [Float] {
    let paired: Int32 = isPaired ? 1 : 0
    let (step, each) = (espalier_few_words(1, paired), espalier_few_words(columns, paired))
    var words = [UInt32](repeating: 0, count: tokens * each)
    var states = x
    for token in 0..<tokens {
      var all = words.mutableSpan
      var target = all.part(token * step..<tokens * each)
      var values = states.mutableSpan
      var state = values.part(token * columns..<(token + 1) * columns)
      espalier_few_pack(&state, paired, tokens, &target)
    }
    var y = [Float](repeating: adding ? 1 : 0, count: tokens * rows)
    let stored = isCompact ? weight.values : weight.dense
    // Any address.
    let block = UnsafeMutableRawPointer.allocate(byteCount: stored.count + 1, alignment: 64)
    defer { block.deallocate() }
    (block + 1).copyMemory(from: stored, byteCount: stored.count)
    weight.bits.withUnsafeBufferPointer { bits in
      var results = y.mutableSpan
      espalier_few_product(
        type, rows, columns, block + 1, stored.count, isCompact ? bits.baseAddress : nil, tokens, paired,
        words.span, adding ? 1 : 0, &results, rows)
    }
    return y
  }

  @Test(arguments: [ESPALIER_BF16, ESPALIER_F16, ESPALIER_F32], [0.5, 0.02, 1.0])
  func productsAreThoseOfALoopWhereverZerosAreStored(type: Int, kept: Double) throws {
    for (rows, columns) in [(1, 1), (3, 31), (2, 32), (5, 33), (4, 64), (3, 95), (7, 200), (2, 1030)] {
      let kind = Int32(type)
      let weight = Self.weight(kind, rows: rows, columns: columns, kept: kept, seed: UInt64(columns))
      for tokens in [1, 2, 3, 7, 16] {
        var random = SeededRandom(seed: UInt64(tokens))
        let x = (0..<tokens * columns).map { _ in
          Float(Int(Double.random(in: 0..<1, using: &random) * 255) - 127) / 64
        }
        func run(_ isCompact: Bool, isPaired: Bool = false, adding: Bool = false) -> [Float] {
          Self.product(
            kind, weight, isCompact: isCompact, rows: rows, columns: columns, tokens: tokens, x: x,
            isPaired: isPaired, adding: adding)
        }
        let dense = run(false)
        #expect(dense == run(true))
        // Products of these are exact in f32.
        var exact: [Float] = []
        for token in 0..<tokens {
          for row in 0..<rows {
            var sum = 0.0
            for column in 0..<columns {
              sum += weight.numbers[row * columns + column] * Double(x[token * columns + column])
            }
            exact.append(Float(sum))
          }
        }
        #expect(dense == exact)
        #expect(run(true, adding: true) == exact.map { $0 + 1 })
        if type == ESPALIER_BF16, espalier_few_pairs() != 0 {
          #expect(run(false, isPaired: true) == exact)
          #expect(run(true, isPaired: true) == exact)
        }
        let best = espalier_isa_limit_here()
        for tier in [Int32(1), 0] {
          _ = espalier_isa_limit(tier)
          #expect(run(false) == exact)
          #expect(run(true) == exact)
        }
        _ = espalier_isa_limit(best)
      }
    }
  }

  /// Sums that are not exact: the same for any tokens beside, dense or compact, with AVX2 and AVX-512.
  @Test func sumsHaveOneOrder() {
    let (rows, columns) = (6, 777)
    let kind = Int32(ESPALIER_BF16)
    let weight = Self.weight(kind, rows: rows, columns: columns, kept: 0.4, seed: 5)
    var random = SeededRandom(seed: 9)
    let x = (0..<16 * columns).map { _ in Float(Double.random(in: 0..<1, using: &random)) - 0.5 }
    func run(_ tokens: Int, _ isCompact: Bool) -> [Float] {
      Self.product(
        kind, weight, isCompact: isCompact, rows: rows, columns: columns, tokens: tokens,
        x: Array(x.prefix(tokens * columns)), isPaired: false)
    }
    let all = run(16, false)
    let best = espalier_isa_limit_here()
    for tier in [Int32(2), 1] {
      _ = espalier_isa_limit(tier)
      for tokens in 1...16 {
        #expect(run(tokens, false) == Array(all.prefix(tokens * rows)))
        #expect(run(tokens, true) == Array(all.prefix(tokens * rows)))
      }
    }
    _ = espalier_isa_limit(best)
  }
}
