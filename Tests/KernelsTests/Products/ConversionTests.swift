import CKernels
import EspalierTestSupport
import Testing

@Suite struct ConversionTests {
  @Test func everyHalfBecomesItsFloat() {
    let bits = (0...UInt16.max).map { $0 }
    var f16 = [Float](repeating: 0, count: bits.count)
    var bf16 = f16
    espalier_f16_to_f32(bits.count, bits, &f16)
    espalier_bf16_to_f32(bits.count, bits, &bf16)
    for (index, value) in bits.enumerated() {
      let expected = Float(Float16(bitPattern: value))
      #expect(f16[index].bitPattern == expected.bitPattern || (f16[index].isNaN && expected.isNaN))
      #expect(bf16[index].bitPattern == UInt32(value) << 16)
    }
  }

  @Test func floatsAreRoundedToNearestEven() {
    var random = SeededRandom(seed: 5)
    var values = (0..<20000).map { _ in Float(bitPattern: UInt32(truncatingIfNeeded: random.next())) }
    // Halfway cases and the edges of the subnormals.
    values += (0..<5000).map { _ in
      Float(Float16(bitPattern: UInt16(truncatingIfNeeded: random.next()) & 0x7FFF)) * 1.000_244_140_625
    }
    values += [0, -0.0, 65504, 65519.996, 65520, 5.96e-8, 2.98e-8, 2.99e-8, .infinity, -.infinity, .nan]
    var f16 = [UInt16](repeating: 0, count: values.count)
    var bf16 = f16
    espalier_f32_to_f16(values.count, values, &f16)
    espalier_f32_to_bf16(values.count, values, &bf16)
    for (index, value) in values.enumerated() {
      if value.isNaN {
        #expect(Float16(bitPattern: f16[index]).isNaN && Float(bitPattern: UInt32(bf16[index]) << 16).isNaN)
        continue
      }
      #expect(f16[index] == Float16(value).bitPattern, "\(value)")
      // Of the two neighbours in bf16 the nearer, of equally near ones the even.
      let low = value.bitPattern >> 16
      let remainder = value.bitPattern & 0xFFFF
      let up = remainder > 0x8000 || (remainder == 0x8000 && low & 1 == 1)
      #expect(UInt32(bf16[index]) == low + (up ? 1 : 0))
    }
  }

  @Test func firstNotFiniteIsFoundAtEveryPlace() {
    for count in [1, 2, 63, 64, 65, 200] {
      var values = [Float](repeating: 3e38, count: count)
      #expect(espalier_first_not_finite_f32(count, values) == count)
      for place in 0..<count {
        values[place] = place % 2 == 0 ? .nan : -.infinity
        #expect(espalier_first_not_finite_f32(count, values) == place)
        values[place] = 1
      }
    }
  }

  @Test func bitsArePackedAndUnpacked() {
    var random = SeededRandom(seed: 1)
    for count in 1...70 {
      let bytes = (0..<count).map { _ in UInt8.random(in: 0...1, using: &random) }
      var bits = [UInt8](repeating: 0xFF, count: (count + 7) / 8)
      var back = [UInt8](repeating: 9, count: count)
      espalier_pack_bits(count, bytes, bits.count, &bits)
      espalier_unpack_bits(count, bits.count, bits, &back)
      #expect(back == bytes)
      #expect(bits.reduce(0) { $0 + $1.nonzeroBitCount } == bytes.reduce(0) { $0 + Int($1) })
    }
  }
}
