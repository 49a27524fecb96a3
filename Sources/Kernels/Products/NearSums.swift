import EspalierCore

/// Lets `body` sum up a part of a matrix, `rows x columns`, in `scratch`, where its rows are contiguous, and copies it to its place.
///
/// Rows of a matrix are often a power of two apart, and would evict each other from the second cache before they are complete.
///
/// - Parameters:
///   - start: what the sums begin with.
///   - matrix: rows, `stride` elements apart.
///   - first: the first element of the part.
func withNearSums(
  rows: Int, columns: Int, start: NearStart, into matrix: inout MutableSpan<Float>, from first: Int,
  stride: Int,
  _ scratch: inout Buffer<Float>, _ body: (inout MutableSpan<Float>) -> Void
) {
  var sums = scratch.part(0..<rows * columns)
  switch start {
  case .undefined: break
  case .zeros: sums.update(repeating: 0)
  case .elements:
    for row in 0..<rows {
      var line = sums.part(row * columns..<(row + 1) * columns)
      line.copy(matrix.span.extracting(first + row * stride..<first + row * stride + columns))
    }
  }
  body(&sums)
  for row in 0..<rows {
    var line = matrix.part(first + row * stride..<first + row * stride + columns)
    line.copy(sums.span.extracting(row * columns..<(row + 1) * columns))
  }
}

/// What near sums begin with.
enum NearStart {
  /// Anything: all of them are written.
  case undefined
  case zeros
  /// What the matrix holds.
  case elements
}
