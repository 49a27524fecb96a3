import CKernels
import EspalierCore

/// Rows that are fitted at a time.
let fittedRows = 256

/// The rows of a matrix, for threads that share them; valid while the matrix is.
struct RowPointers<Element: BitwiseCopyable>: @unchecked Sendable {
  private let base: UnsafeMutablePointer<Element>
  private let rows: Int
  private let columns: Int

  init(_ base: UnsafeMutablePointer<Element>, rows: Int, columns: Int) {
    self.base = base
    self.rows = rows
    self.columns = columns
  }

  subscript(row: Int) -> UnsafeMutablePointer<Element> {
    precondition(row >= 0 && row < rows)
    return base + row * columns
  }
}

extension Matrix {
  mutating func withRows<Result>(_ body: (RowPointers<Float>) throws -> Result) rethrows -> Result {
    let (rows, columns) = (rows, columns)
    return try elements.withUnsafeMutable {
      try body(RowPointers($0.baseAddress!, rows: rows, columns: columns))
    }
  }

  /// The scalar product of each row with that of `other`, in f64.
  borrowing func dots(_ other: borrowing Matrix) -> [Double] {
    precondition(rows == other.rows && columns == other.columns)
    let (rows, columns) = (rows, columns)
    return elements.withUnsafe { own in
      other.elements.withUnsafe { other in
        (0..<rows).map {
          espalier_dot(columns, own.baseAddress! + $0 * columns, other.baseAddress! + $0 * columns)
        }
      }
    }
  }
}

/// What the masks of a block of rows keep: 1 where a weight is kept, 0 where it is pruned; `rows x columns`.
struct KeptRows: ~Copyable {
  let rows: Int
  let columns: Int
  private var bytes: Buffer<UInt8>

  /// Nothing is kept.
  init(rows: Int, columns: Int) {
    self.rows = rows
    self.columns = columns
    bytes = Buffer(count: rows * columns)
  }

  /// The rows `range` of a mask.
  init(_ mask: Mask, rows range: Range<Int>) {
    self.init(rows: range.count, columns: mask.columns)
    withRows { kept in
      mask.bits.withUnsafeBufferPointer { bits in
        for (index, row) in range.enumerated() {
          espalier_unpack_bits(mask.columns, bits.baseAddress! + row * mask.rowBytes, kept[index])
        }
      }
    }
  }

  mutating func withRows<Result>(_ body: (RowPointers<UInt8>) throws -> Result) rethrows -> Result {
    let (rows, columns) = (rows, columns)
    return try bytes.withUnsafeMutable {
      try body(RowPointers($0.baseAddress!, rows: rows, columns: columns))
    }
  }

  /// Puts the rows into `mask`, from `firstRow` on.
  borrowing func store(into mask: inout Mask, firstRow: Int) {
    let (rows, columns, rowBytes) = (rows, columns, mask.rowBytes)
    precondition(firstRow >= 0 && firstRow + rows <= mask.rows && columns == mask.columns)
    bytes.withUnsafe { kept in
      mask.withUnsafeMutableBits { bits in
        for row in 0..<rows {
          espalier_pack_bits(
            columns, kept.baseAddress! + row * columns, bits.baseAddress! + (firstRow + row) * rowBytes)
        }
      }
    }
  }

  /// The weights that the rows do not keep, 0 elsewhere: `(1-m).w`.
  borrowing func prunedPart(of weights: borrowing Matrix) -> Matrix {
    precondition(weights.rows == rows && weights.columns == columns)
    let count = rows * columns
    var part = Matrix(rows: rows, columns: columns)
    part.elements.withUnsafeMutable { part in
      weights.elements.withUnsafe { weights in
        bytes.withUnsafe { kept in
          espalier_pruned_part(count, weights.baseAddress!, kept.baseAddress!, part.baseAddress!)
        }
      }
    }
    return part
  }
}
