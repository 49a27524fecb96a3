import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierIO

struct FiniteCheckTests {
  /// Every 16-bit pattern, judged alone by the definition of its type, at every position of a word and in the rest after the last word.
  @Test(arguments: [DType.bf16, .f16])
  func everyPatternOf16Bits(_ dtype: DType) throws {
    let check = try #require(FiniteCheck(dtype))
    for bits in UInt16.min ... .max {
      let isFinite =
        dtype == .f16
        ? Float16(bitPattern: bits).isFinite : Float(bitPattern: UInt32(bits) << 16).isFinite
      let place = Int(bits % 7)
      var elements = [UInt16](repeating: bits & 0x83FF, count: 7)
      elements[place] = bits
      let found = elements.withUnsafeBytes { check.firstNotFinite($0) }
      if found != (isFinite ? nil : place) { Issue.record("\(String(bits, radix: 16)) at \(place)") }
    }
  }

  @Test func floatsOf32Bits() throws {
    let check = try #require(FiniteCheck(.f32))
    let finite: [Float] = [0, -0.0, 1, .greatestFiniteMagnitude, -.leastNonzeroMagnitude]
    for bad: Float in [.nan, .infinity, -.infinity, .signalingNaN] {
      for count in 1...9 {
        for place in 0..<count {
          var values = (0..<count).map { finite[$0 % finite.count] }
          #expect(values.withUnsafeBytes { check.firstNotFinite($0) } == nil)
          values[place] = bad
          #expect(values.withUnsafeBytes { check.firstNotFinite($0) } == place)
        }
      }
    }
  }

  /// Also beyond the first part that is hashed, and only if it is asked for.
  @Test func digestsNameTheFirstElementThatIsNotFinite() throws {
    let folder = try TemporaryFolder()
    let path = folder.path + "/t.safetensors"
    var values = [Float](repeating: 1, count: 700 * 500)
    (values[600 * 500 + 7], values[699 * 500]) = (.nan, .infinity)
    var writer = try SafetensorsWriter(path: path, tensors: [("w", .f32, [700, 500])])
    try writer.append(values)
    try writer.finish()
    let tensor = try SafetensorsFile(path: path).tensor("w")
    _ = try tensor.digest()
    let error = #expect(throws: EspalierError.self) { try tensor.digest(requiringFinite: true) }
    #expect(error?.code == .badInput && error?.subject == path)
    #expect(
      error?.message.contains("the tensor w holds a value that is not finite at row 600, column 7.") == true)
  }
}
