import EspalierCore

/// Has `body` sum up a part of a matrix, `rows x columns`, in `room`, where its rows lie one after the other, and puts it in its place.
///
/// Rows of a matrix are often a power of two apart, and would drive each other out of the second cache before they are complete.
///
/// - Parameters:
///   - adding: whether the sums begin with what stands in the place.
///   - place: the first element of the part in the matrix, whose rows are `stride` elements apart.
func withNearSums(
  rows: Int, columns: Int, adding: Bool, place: UnsafeMutablePointer<Float>, stride: Int,
  _ room: inout Buffer<Float>, _ body: (UnsafeMutablePointer<Float>) -> Void
) {
  precondition(rows * columns <= room.count)
  room.withUnsafeMutable { room in
    guard let sums = room.baseAddress else { return }
    if adding {
      for row in 0..<rows { (sums + row * columns).update(from: place + row * stride, count: columns) }
    }
    body(sums)
    for row in 0..<rows { (place + row * stride).update(from: sums + row * columns, count: columns) }
  }
}
