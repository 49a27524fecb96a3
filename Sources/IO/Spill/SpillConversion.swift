import EspalierCore

extension SpillElement {
  /// Stores `count` values as elements.
  ///
  /// - Returns: false if a finite value is too large for this type; it is then stored as an infinity.
  package func store(
    _ values: UnsafePointer<Float>, _ elements: UnsafeMutableRawPointer, count: Int
  ) -> Bool {
    switch self {
    case .f32:
      elements.copyMemory(from: values, byteCount: count * 4)
      return true
    case .bf16: return Self.store(values, elements, count, exponent: 0x7F80, Self.bf16Bits)
    case .f16: return Self.store(values, elements, count, exponent: 0x7C00, Self.f16Bits)
    }
  }

  /// Reads `count` elements, exactly.
  func load(_ elements: UnsafeRawPointer, _ values: UnsafeMutablePointer<Float>, count: Int) {
    switch self {
    case .f32: UnsafeMutableRawPointer(values).copyMemory(from: elements, byteCount: count * 4)
    case .bf16: Self.load(elements, values, count) { UInt32($0) << 16 }
    case .f16: Self.load(elements, values, count, Self.floatBits(ofF16:))
    }
  }

  // Works on bits, since a NaN in a float register could lose its payload; and with masks instead of conditions, which the compiler
  // would turn into branches that prevent vectorization.
  @inline(__always)
  private static func store(
    _ values: UnsafePointer<Float>, _ elements: UnsafeMutableRawPointer, _ count: Int, exponent: UInt32,
    _ convert: (UInt32) -> UInt32
  ) -> Bool {
    let source = UnsafeRawPointer(values).assumingMemoryBound(to: UInt32.self)
    let target = elements.assumingMemoryBound(to: UInt16.self)
    var overflow: UInt32 = 0
    for index in 0..<count {
      let bits = source[index]
      let element = convert(bits)
      target[index] = UInt16(truncatingIfNeeded: element)
      let isFinite = mask(bits & 0x7FFF_FFFF, isBelow: 0x7F80_0000)
      overflow |= isFinite & mask(exponent &- 1, isBelow: element & 0x7FFF)
    }
    return overflow == 0
  }

  /// All ones if `value` is below `limit`, else zero; both are below 2^31.
  @inline(__always)
  private static func mask(_ value: UInt32, isBelow limit: UInt32) -> UInt32 {
    UInt32(bitPattern: Int32(bitPattern: value &- limit) >> 31)
  }

  @inline(__always)
  private static func choose(_ first: UInt32, _ second: UInt32, by mask: UInt32) -> UInt32 {
    first & mask | second & ~mask
  }

  @inline(__always)
  private static func load(
    _ elements: UnsafeRawPointer, _ values: UnsafeMutablePointer<Float>, _ count: Int,
    _ convert: (UInt16) -> UInt32
  ) {
    let source = elements.assumingMemoryBound(to: UInt16.self)
    let target = UnsafeMutableRawPointer(values).assumingMemoryBound(to: UInt32.self)
    for index in 0..<count { target[index] = convert(source[index]) }
  }

  /// bf16 of the float with these bits; a NaN becomes quiet and keeps its upper payload.
  @inline(__always)
  static func bf16Bits(of bits: UInt32) -> UInt32 {
    let rounded = (bits &+ 0x7FFF &+ (bits >> 16 & 1)) >> 16
    return choose(bits >> 16 | 0x40, rounded, by: mask(0x7F80_0000, isBelow: bits & 0x7FFF_FFFF))
  }

  /// f16 of the float with these bits; on x86, `Float16(_:)` would be a function call for each element.
  @inline(__always)
  static func f16Bits(of bits: UInt32) -> UInt32 {
    let magnitude = bits & 0x7FFF_FFFF
    // Below 2^-14, adding 0.5 makes the addition round to the last bit of a subnormal f16.
    let subnormal = (Float(bitPattern: magnitude) + 0.5).bitPattern &- Float(0.5).bitPattern
    let normal = (magnitude &- 0x3800_0000 &+ 0xFFF &+ (magnitude >> 13 & 1)) >> 13
    let finite = choose(subnormal, normal, by: mask(magnitude, isBelow: 0x3880_0000))
    let quiet = 0x200 | (magnitude >> 13 & 0x1FF)
    let special = 0x7C00 | quiet & mask(0x7F80_0000, isBelow: magnitude)
    return choose(finite, special, by: mask(magnitude, isBelow: 0x4780_0000)) | (bits >> 16 & 0x8000)
  }

  /// Bits of the float that equals this f16.
  @inline(__always)
  static func floatBits(ofF16 element: UInt16) -> UInt32 {
    let shifted = (UInt32(element) & 0x7FFF) << 13
    let normal = shifted &+ 0x3800_0000
    let subnormal = (Float(bitPattern: normal &+ 0x0080_0000) - Float(bitPattern: 0x3880_0000)).bitPattern
    let special = normal &+ 0x3800_0000
    let finite = choose(subnormal, normal, by: mask(shifted, isBelow: 0x0080_0000))
    return choose(finite, special, by: mask(shifted, isBelow: 0x0F80_0000)) | (UInt32(element) & 0x8000)
      << 16
  }
}
