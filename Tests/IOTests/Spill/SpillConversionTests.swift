import EspalierCore
import Testing

@testable import EspalierIO

@Suite struct SpillConversionTests {
  @Test func everyF16IsReadExactly() {
    for pattern in UInt16.min...UInt16.max {
      let half = Float16(bitPattern: pattern)
      let bits = SpillElement.floatBits(ofF16: pattern)
      if half.isNaN {
        #expect(bits == UInt32(pattern & 0x8000) << 16 | 0x7F80_0000 | UInt32(pattern & 0x3FF) << 13)
      } else if bits != Float(half).bitPattern {
        Issue.record("\(pattern)")
      }
    }
  }

  @Test func f16IsRoundedAsTheProcessorRounds() {
    check(against: { Float16(Float(bitPattern: $0)).bitPattern }, SpillElement.f16Bits, dropped: 13)
  }

  @Test func bf16IsRoundedToNearestEven() {
    func oracle(_ bits: UInt32) -> UInt16 {
      let (kept, rest) = (bits >> 16, bits & 0xFFFF)
      return UInt16(rest > 0x8000 || rest == 0x8000 && kept % 2 == 1 ? kept + 1 : kept)
    }
    check(against: oracle, SpillElement.bf16Bits, dropped: 16)
  }

  /// Compares at steps over all floats, and on both sides of every place where rounding or a range changes.
  private func check(against oracle: (UInt32) -> UInt16, _ convert: (UInt32) -> UInt32, dropped: UInt32) {
    func check(_ bits: UInt32) {
      guard !Float(bitPattern: bits).isNaN else { return }
      if convert(bits) != UInt32(oracle(bits)) {
        Issue.record("\(bits): \(convert(bits)), not \(oracle(bits))")
      }
    }
    for bits in stride(from: UInt32(0), through: .max - 20_011, by: 20_011) { check(bits) }
    for exponent in UInt32(0)...255 {
      for place in [0, 1, 2, 3] as [UInt32] {
        let edge = exponent << 23 | place << (dropped - 1)
        for bits in [edge, edge &+ 1, edge &- 1, edge &+ (1 << 22)] { check(bits & 0x7FFF_FFFF) }
      }
    }
  }

  @Test func notANumberStaysNotANumber() {
    for bits in [0x7F80_0001, 0x7FC0_0000, 0xFF80_0001, 0xFFFF_FFFF, 0x7FA1_2345] as [UInt32] {
      let half = Float16(bitPattern: UInt16(SpillElement.f16Bits(of: bits)))
      let brain = Float(bitPattern: SpillElement.bf16Bits(of: bits) << 16)
      #expect(half.isNaN && brain.isNaN)
      #expect((half.sign == .minus) == (bits >> 31 == 1) && (brain.sign == .minus) == (bits >> 31 == 1))
    }
  }

  @Test func everyCountGivesTheSameElements() {
    let values = (0..<70).map { Float($0 * $0) * 0.37 - 100 }
    for (element, convert) in [(SpillElement.f16, SpillElement.f16Bits), (.bf16, SpillElement.bf16Bits)] {
      for count in 0...values.count {
        var elements = [UInt16](repeating: 7, count: count + 1)
        #expect(elements.withUnsafeMutableBytes { element.store(values, $0.baseAddress!, count: count) })
        #expect(elements == values[..<count].map { UInt16(convert($0.bitPattern)) } + [7])
      }
    }
  }

  @Test(arguments: [
    (SpillElement.f16, Float(65519.99), true), (.f16, 65520, false), (.f16, -1e9, false),
    (.f16, .infinity, true),
    (.f16, .nan, true), (.bf16, 3.38e38, true), (.bf16, Float.greatestFiniteMagnitude, false),
    (.bf16, -.infinity, true), (.bf16, .nan, true), (.f32, Float.greatestFiniteMagnitude, true),
  ])
  func overflowIsNoticed(element: SpillElement, value: Float, fits: Bool) {
    for place in [0, 9, 36] {
      var values = [Float](repeating: 1, count: 37)
      values[place] = value
      var bytes = [UInt8](repeating: 0, count: 37 * 4)
      #expect(bytes.withUnsafeMutableBytes { element.store(values, $0.baseAddress!, count: 37) } == fits)
    }
  }
}
