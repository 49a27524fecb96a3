import EspalierCore
import Glibc

/// SplitMix64: the same numbers for the same seed, everywhere.
public struct SeededRandom: RandomNumberGenerator, Sendable {
  private var state: UInt64

  public init(seed: UInt64) { state = seed }

  public mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }

  /// A value from 0 to 1, without 1. `Double.random(in: 0..<1, using:)` gives the same, but takes long in a debug build.
  private mutating func unit() -> Double { Double(next() & (1 << 53 - 1)) * 0x1p-53 }

  /// A standard normal value.
  public mutating func normal() -> Float {
    let u = unit() + Double.leastNonzeroMagnitude
    return Float((-2 * log(u)).squareRoot() * cos(2 * Double.pi * unit()))
  }

  public mutating func normals(_ count: Int) -> [Float] { (0..<count).map { _ in normal() } }

  public mutating func matrix(_ rows: Int, _ columns: Int) -> Matrix {
    Matrix(rows: rows, columns: columns, normals(rows * columns))
  }
}
