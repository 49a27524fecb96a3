import COpenBLAS
import EspalierCore

/// Columns that are factored at a time, and the size of the parts that threads take.
private let panelColumns = 256
private let partSize = 64
/// Rows and columns of a tile that one thread updates.
private let tileSize = 384

/// The upper triangle U with `H^-1 = U^T U` for a positive definite H, f32, `columns x columns`. The elements below it have no meaning.
///
/// H = R R^T with R upper, from the last column to the first, and U = R^-1: half the work of inverting H and factoring the inverse, and
/// no square of its condition.
struct InverseFactor: ~Copyable, Sendable {
  let columns: Int
  private(set) var elements: Matrix

  /// Nil if H is not positive definite in f32. Only the upper triangle of H is read.
  init?(of hessian: consuming Matrix, on device: Device) {
    precondition(hessian.rows == hessian.columns)
    columns = hessian.columns
    elements = hessian
    let columns = columns
    // One thread in LAPACK: the parts are the parallelism.
    openblas_set_num_threads(1)
    let isPositive = elements.elements.withUnsafeMutable { elements in
      guard let base = elements.baseAddress else { return true }
      return Triangle(base: base, columns: columns, device: device).factorInverse()
    }
    guard isPositive else { return nil }
  }

  /// The diagonal of H^-1.
  var inverseDiagonal: [Double] {
    var sums = [Double](repeating: 0, count: columns)
    let rows = elements.rowSpans
    for i in 0..<columns {
      let row = rows[i]
      for j in i..<columns { sums[j] += Double(row[j]) * Double(row[j]) }
    }
    return sums
  }

  /// Replaces every row x by `H^-1 x`.
  func solve(_ matrix: inout Matrix, on device: Device) {
    precondition(matrix.columns == columns)
    let bands = parts(of: matrix.rows, size: partSize)
    let columns = columns
    let rows = matrix.mutableRowSpans
    let factor = elements.elements.span
    device.forEach(bands.count) { index in
      var band = rows[bands[index]]
      band.withUnsafeMutableBufferPointer { x in
        factor.withUnsafeBufferPointer { u in
          for transposition in [CblasTrans, CblasNoTrans] {
            cblas_strmm(
              CblasRowMajor, CblasRight, CblasUpper, transposition, CblasNonUnit, blasint(bands[index].count),
              blasint(columns), 1, u.baseAddress, blasint(columns), x.baseAddress, blasint(columns))
          }
        }
      }
    }
  }

  /// Bytes that the factor takes, the matrix included.
  static func byteCount(columns: Int) -> Int {
    let panel = min(panelColumns, columns)
    return columns * columns * 4 + panel * panel * 4
  }
}

/// The matrix while it is factored in place, `columns x columns`. LAPACK reads one part of it and writes another, so that rows cannot be
/// lent to the threads one by one; the parts that threads write do not overlap.
private struct Triangle: @unchecked Sendable {
  let base: UnsafeMutablePointer<Float>
  let columns: Int
  let device: Device

  private subscript(row: Int) -> UnsafeMutablePointer<Float> { base + row * columns }

  /// Whether there is a factor.
  func factorInverse() -> Bool {
    let panels = parts(of: columns, size: panelColumns)
    for panel in panels.reversed() {
      guard factorDiagonal(panel) else { return false }
      factorAbove(panel)
    }
    for panel in panels.reversed() { invert(panel) }
    return true
  }

  /// R of the block on the diagonal: the Cholesky factor of the block with its rows and columns reversed, and reversed again.
  private func factorDiagonal(_ panel: Range<Int>) -> Bool {
    let (size, last) = (panel.count, panel.upperBound - 1)
    var reversed = Buffer<Float>(unfilled: size * size)
    for i in 0..<size { for j in 0...i { reversed[j * size + i] = self[last - i][last - j] } }
    var (order, info) = (blasint(size), blasint(0))
    reversed.withUnsafeMutable { spotrf_("L", &order, $0.baseAddress, &order, &info) }
    guard info == 0 else { return false }
    for i in 0..<size {
      for j in 0...i { self[last - i][last - j] = reversed[j * size + i] }
      guard self[last - i][last - i].isFinite else { return false }
    }
    return true
  }

  /// R above that block, and what it subtracts from the columns to the left.
  private func factorAbove(_ panel: Range<Int>) {
    let above = panel.lowerBound
    guard above > 0 else { return }
    let bands = parts(of: above, size: partSize)
    device.forEach(bands.count) { index in
      let band = bands[index]
      cblas_strsm(
        CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, blasint(band.count),
        blasint(panel.count), 1, self[above] + above, blasint(columns), self[band.lowerBound] + above,
        blasint(columns))
    }
    let blocks = parts(of: above, size: tileSize)
    let tiles = blocks.indices.flatMap { i in blocks[i...].map { (rows: blocks[i], columns: $0) } }
    device.forEach(tiles.count) { index in
      let tile = tiles[index]
      cblas_sgemm(
        CblasRowMajor, CblasNoTrans, CblasTrans, blasint(tile.rows.count), blasint(tile.columns.count),
        blasint(panel.count), -1, self[tile.rows.lowerBound] + above, blasint(columns),
        self[tile.columns.lowerBound] + above, blasint(columns), 1,
        self[tile.rows.lowerBound] + tile.columns.lowerBound, blasint(columns))
    }
  }

  /// The panel's columns of R^-1; the columns to the left are still those of R.
  private func invert(_ panel: Range<Int>) {
    let above = panel.lowerBound
    var (order, stride, info) = (blasint(panel.count), blasint(columns), blasint(0))
    // Column-major: the upper triangle is the lower one.
    strtri_("L", "N", &order, self[above] + above, &stride, &info)
    guard above > 0 else { return }
    let bands = parts(of: above, size: partSize)
    device.forEach(bands.count) { index in
      let band = bands[index]
      cblas_strmm(
        CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, blasint(band.count),
        blasint(panel.count), -1, self[above] + above, blasint(columns), self[band.lowerBound] + above,
        blasint(columns))
    }
    let slices = parts(of: panel.count, size: partSize)
    device.forEach(slices.count) { index in
      let slice = slices[index]
      cblas_strsm(
        CblasRowMajor, CblasLeft, CblasUpper, CblasNoTrans, CblasNonUnit, blasint(above),
        blasint(slice.count), 1, self[0], blasint(columns), self[0] + above + slice.lowerBound,
        blasint(columns))
    }
  }
}
