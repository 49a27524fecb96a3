import CKernels
import EspalierCore

/// Rows of weights in the type of a checkpoint, rounded to nearest.
public struct RoundedWeights: ~Copyable, Sendable {
  public let rows: Int
  public let columns: Int
  public let dtype: DType
  /// The bytes to write, row after row.
  public let bytes: Buffer<UInt8>

  /// Nil if a weight is not finite in that type.
  public init?(_ weights: borrowing Matrix, as dtype: DType) {
    precondition(dtype.isWeight)
    rows = weights.rows
    columns = weights.columns
    self.dtype = dtype
    let count = rows * columns
    var bytes = Buffer<UInt8>(unfilled: count * dtype.byteCount)
    bytes.withUnsafeMutable { bytes in
      weights.elements.withUnsafe { weights in
        guard let input = weights.baseAddress, let output = UnsafeMutableRawPointer(bytes.baseAddress) else {
          return
        }
        switch dtype {
        case .bf16: espalier_f32_to_bf16(count, input, output.assumingMemoryBound(to: UInt16.self))
        case .f16: espalier_f32_to_f16(count, input, output.assumingMemoryBound(to: UInt16.self))
        default: output.copyMemory(from: input, byteCount: count * 4)
        }
      }
    }
    self.bytes = bytes
    guard values().firstNotFinite() == nil else { return nil }
  }

  /// The bytes as an array.
  public var array: [UInt8] { bytes.withUnsafe { [UInt8]($0) } }

  /// The weights as they will be read: `rows x columns`.
  public borrowing func values() -> Matrix {
    var values = Matrix(unfilled: rows, columns: columns)
    var output = values.elements.mutableSpan
    bytes.withUnsafe {
      if let start = $0.baseAddress { load32(start, dtype, count: rows * columns, into: &output) }
    }
    return values
  }

  /// Bytes of rounded rows and of their ``values()``.
  public static func workingSet(rows: Int, columns: Int, weightBytes: Int) -> Int {
    rows * columns * (weightBytes + 4)
  }
}
