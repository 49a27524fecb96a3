import COpenBLAS
import EspalierCore

/// A matrix as OpenBLAS takes it: rows, `stride` elements apart, read as they are or transposed.
struct Operand<Element: BitwiseCopyable>: ~Escapable {
  let elements: Span<Element>
  let stride: Int
  let isTransposed: Bool

  @_lifetime(copy elements)
  init(_ elements: Span<Element>, stride: Int, isTransposed: Bool = false) {
    self.elements = elements
    self.stride = stride
    self.isTransposed = isTransposed
  }

  /// Whether `rows x columns` of it, as it is read, lie within the span.
  func holds(rows: Int, columns: Int) -> Bool {
    let (lines, width) = isTransposed ? (columns, rows) : (rows, columns)
    return lines == 0 || width == 0 || (width <= stride && (lines - 1) * stride + width <= elements.count)
  }
}

/// `C = factor A B (+ C)` on one thread, for A of `rows x inner` and B of `inner x columns`, after transposition.
///
/// - Parameter stride: distance between the rows of C.
func multiply(
  rows: Int, columns: Int, inner: Int, factor: Float = 1, _ a: Operand<Float>, _ b: Operand<Float>,
  adding: Bool = false, into c: inout MutableSpan<Float>, stride: Int
) {
  precondition(a.holds(rows: rows, columns: inner) && b.holds(rows: inner, columns: columns))
  precondition(Operand(c.span, stride: stride).holds(rows: rows, columns: columns))
  guard rows > 0, columns > 0 else { return }
  c.withUnsafeMutableBufferPointer { c in
    a.elements.withUnsafeBufferPointer { x in
      b.elements.withUnsafeBufferPointer { y in
        cblas_sgemm(
          CblasRowMajor, a.isTransposed ? CblasTrans : CblasNoTrans,
          b.isTransposed ? CblasTrans : CblasNoTrans, blasint(rows), blasint(columns), blasint(inner),
          factor, x.baseAddress, blasint(a.stride), y.baseAddress, blasint(b.stride), adding ? 1 : 0,
          c.baseAddress, blasint(stride))
      }
    }
  }
}

/// The same in f64, without transposition.
func multiply(
  rows: Int, columns: Int, inner: Int, _ a: Operand<Double>, _ b: Operand<Double>, adding: Bool,
  into c: inout MutableSpan<Double>, stride: Int
) {
  precondition(a.holds(rows: rows, columns: inner) && b.holds(rows: inner, columns: columns))
  precondition(!a.isTransposed && !b.isTransposed)
  precondition(Operand(c.span, stride: stride).holds(rows: rows, columns: columns))
  guard rows > 0, columns > 0 else { return }
  c.withUnsafeMutableBufferPointer { c in
    a.elements.withUnsafeBufferPointer { x in
      b.elements.withUnsafeBufferPointer { y in
        cblas_dgemm(
          CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(rows), blasint(columns), blasint(inner), 1,
          x.baseAddress, blasint(a.stride), y.baseAddress, blasint(b.stride), adding ? 1 : 0, c.baseAddress,
          blasint(stride))
      }
    }
  }
}
