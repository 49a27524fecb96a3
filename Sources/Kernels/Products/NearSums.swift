import EspalierCore

/// Lets `body` sum up a part of a matrix, `rows x columns`, in `scratch`, where its rows are contiguous, and copies it to its place.
///
/// Rows of a matrix are often a power of two apart, and would evict each other from the second cache before they are complete.
///
/// - Parameters:
///   - adding: whether the sums begin with what the matrix holds.
///   - matrix: rows, `stride` elements apart.
///   - first: the first element of the part.
func withNearSums(
  rows: Int, columns: Int, adding: Bool, into matrix: inout MutableSpan<Float>, from first: Int, stride: Int,
  _ scratch: inout Buffer<Float>, _ body: (inout MutableSpan<Float>) -> Void
) {
  var sums = scratch.part(0..<rows * columns)
  if adding {
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
