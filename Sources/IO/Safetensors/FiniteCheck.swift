import EspalierCore

/// Finds infinities and NaNs among stored floats: elements whose exponent bits are all ones.
struct FiniteCheck {
  private let elementBytes: Int
  /// The exponent bits of all elements in eight bytes.
  private let exponents: UInt64
  /// Their sign bits.
  private let signs: UInt64

  /// Nil for a type whose elements are always finite, or not weights.
  init?(_ dtype: DType) {
    switch dtype {
    case .f32: (elementBytes, exponents, signs) = (4, 0x7F80_0000_7F80_0000, 0x8000_0000_8000_0000)
    case .bf16: (elementBytes, exponents, signs) = (2, 0x7F80_7F80_7F80_7F80, 0x8000_8000_8000_8000)
    case .f16: (elementBytes, exponents, signs) = (2, 0x7C00_7C00_7C00_7C00, 0x8000_8000_8000_8000)
    default: return nil
    }
  }

  /// The index of the first element that is not finite.
  func firstNotFinite(_ bytes: UnsafeRawBufferPointer) -> Int? {
    let words = bytes.count / 8
    // If an element is finite, its inverted exponent bits are not zero, and adding all exponent bits carries into the sign bit.
    var carries = UInt64.max
    for word in 0..<words {
      let value = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: word * 8, as: UInt64.self))
      carries &= (~value & exponents) &+ exponents
    }
    let first = carries & signs == signs ? words * 8 : 0
    return stride(from: first, to: bytes.count, by: elementBytes).first { !isFinite(bytes, at: $0) }.map {
      $0 / elementBytes
    }
  }

  private func isFinite(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> Bool {
    var element: UInt64 = 0
    for index in 0..<elementBytes { element |= UInt64(bytes[offset + index]) << UInt64(8 * index) }
    let exponent = exponents & ((1 << UInt64(8 * elementBytes)) - 1)
    return element & exponent != exponent
  }
}
