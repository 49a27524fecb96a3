import CKernels
import EspalierCore
import EspalierIO

/// The most bytes of a piece of sums that are carried from one place to another, if one row is not more.
let pieceBytes = 8 << 20

/// A matrix of sums, `rows x columns` in f32, while it grows: in memory, or in a file that is mapped. Where it is makes no difference
/// to its elements.
struct GrowingMatrix: ~Copyable, Sendable {
  let rows: Int
  let columns: Int
  private var memory: Matrix?
  private var file: MappedBuffer?
  /// Whether nothing was added yet, so that sums need not read their elements, whose pages do not exist before they are written.
  var isZero = true

  /// A matrix of zeros.
  ///
  /// - Parameter file: the place of the elements, which are zero; nil for memory.
  init(rows: Int, columns: Int, in file: consuming MappedBuffer?) {
    (self.rows, self.columns) = (rows, columns)
    memory = nil
    self.file = file
    if self.file == nil {
      memory = Matrix(rows: rows, columns: columns)
    } else {
      precondition(self.file?.byteCount == rows * columns * 4)
    }
  }

  var isInFile: Bool { file != nil }

  /// Runs `body` with the rows, wherever they are.
  mutating func withElements(_ body: (MutableRowSpans<Float>) -> Void) {
    if file == nil {
      guard var matrix = memory.take() else { return }
      body(matrix.mutableRowSpans)
      memory = consume matrix
    } else {
      let (rows, columns) = (rows, columns)
      file?.withUnsafeMutable {
        let elements = $0.bindMemory(to: Float.self)
        if let base = elements.baseAddress {
          body(MutableRowSpans(unsafe: base, rows: rows, columns: columns))
        }
      }
    }
  }

  /// Has the system read a part of some rows, if they are in a file.
  func prefetch(_ rows: Range<Int>, _ range: Range<Int>) {
    for row in rows {
      file?.prefetch((row * columns + range.lowerBound) * 4..<(row * columns + range.upperBound) * 4)
    }
  }

  /// Gives the pages of some rows back, if they are in a file.
  func release(_ rows: Range<Int>) {
    file?.release(rows.lowerBound * columns * 4..<rows.upperBound * columns * 4)
  }

  /// The elements row after row; nil if they are in a file.
  consuming func takeMatrix() -> Matrix? { memory }

  /// Writes all elements; nothing if they are in the file already.
  borrowing func write(_ name: String, to draft: borrowing SafetensorsDraft) throws {
    switch memory {
    case .some(let matrix): try draft.write(matrix.elements, to: name)
    case .none: break
    }
  }

  // MARK: - Pieces

  /// Bytes of the elements of some rows, row after row.
  ///
  /// - Parameter range: the columns that are wanted of a row.
  mutating func bytes(of rows: Range<Int>, _ range: (Int) -> Range<Int>) -> [UInt8] {
    let count = rows.reduce(0) { $0 + range($1).count } * 4
    let bytes = [UInt8](unsafeUninitializedCapacity: count) { bytes, filled in
      withElements { elements in
        for row in rows {
          var line = elements[row]
          line.part(range(row)).withUnsafeBytes {
            guard let source = $0.baseAddress, let target = bytes.baseAddress else { return }
            UnsafeMutableRawPointer(target + filled).copyMemory(from: source, byteCount: $0.count)
            filled += $0.count
          }
        }
      }
    }
    release(rows)
    return bytes
  }

  /// Adds what ``bytes(of:_:)`` gave of another matrix.
  mutating func add(_ bytes: [UInt8], to rows: Range<Int>, _ range: (Int) -> Range<Int>) {
    precondition(bytes.count == rows.reduce(0) { $0 + range($1).count } * 4)
    isZero = false
    bytes.withUnsafeBytes { bytes in
      let values = Span(_unsafeElements: bytes.bindMemory(to: Float.self))
      var place = 0
      withElements { elements in
        for row in rows {
          let columns = range(row)
          var line = elements[row]
          var part = line.part(columns)
          espalier_add(values.extracting(place..<place + columns.count), &part)
          place += columns.count
        }
      }
    }
    release(rows)
  }

  /// Makes all elements zero.
  mutating func clear() {
    let columns = columns
    for rows in parts(of: rows, size: max(1, pieceBytes / max(1, columns * 4))) {
      withElements { elements in
        for row in rows {
          var line = elements[row]
          line.update(repeating: 0)
        }
      }
      release(rows)
    }
  }
}
