import CKernels
import EspalierCore
import EspalierIO

/// The zeros of a weight, row by row, whatever pruned it.
public struct ZeroCensus: Sendable {
  /// 1 if the weight is not zero; `rows x columns` bits.
  private let nonzero: Mask
  public let rows: Int
  public let columns: Int
  /// Zeros of either sign in the whole matrix.
  public let zeros: Int

  public init(_ weight: LinearWeight, on device: Device) {
    rows = weight.rows
    columns = weight.columns
    var mask = Mask(rows: weight.rows, columns: weight.columns, pattern: .rows(sparsity: 0))
    do {
      let bits = mask.mutableRowSpans
      device.forEach(
        weight.rows, scratch: { Buffer<Float>(count: weight.columns) },
        { scratch, row in
          var values = scratch.mutableSpan
          weight.load(row..<row + 1, into: &values)
          var bits = bits[row]
          nonzeroBits(scratch.span, into: &bits)
        })
    }
    nonzero = mask
    zeros = weight.rows * weight.columns - mask.bits.reduce(0) { $0 + $1.nonzeroBitCount }
    weight.tensor.release()
  }

  /// The first row that keeps more than the pattern allows, 0 if the whole matrix does; nil if none does. A kept weight may
  /// itself be zero.
  public func firstRow(violating pattern: SparsityPattern) -> Int? {
    let kept = pattern.kept(ofColumns: columns)
    switch pattern {
    case .rows: return (0..<rows).first { nonzero.keptCount(row: $0) > kept }
    case .matrix: return nonzero.keptCount > rows * kept ? 0 : nil
    case .groups(let keep, let of): return (0..<rows).first { mostKept(row: $0, of: of) > keep }
    }
  }

  /// The tightest pattern that every row has: the smallest N:4, N:8 or N:16 below dense, else an equal count in all rows; nil if there
  /// is none.
  public var pattern: String? {
    guard zeros > 0 else { return nil }
    let counts = (0..<rows).map { nonzero.keptCount(row: $0) }
    for of in [4, 8, 16] where columns % of == 0 {
      let keep = (0..<rows).map { mostKept(row: $0, of: of) }.max() ?? of
      if keep < of, counts.allSatisfy({ $0 * of >= columns * keep * 9 / 10 }) { return "\(keep):\(of)" }
    }
    guard let first = counts.first, counts.allSatisfy({ $0 == first }) else { return nil }
    return "\(columns - first) of \(columns) per row"
  }

  private func mostKept(row: Int, of: Int) -> Int {
    var most = 0
    for start in stride(from: 0, to: columns, by: of) {
      most = max(most, (start..<start + of).reduce(0) { $0 + (nonzero[row, $1] ? 1 : 0) })
    }
    return most
  }
}
