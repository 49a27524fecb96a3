import COpenBLAS
import EspalierCore

/// Columns that are factored at a time, and the size of the parts that threads take.
private let panel = 256
private let part = 64

/// The upper triangle U with `H^-1 = U^T U` for a positive definite H, f32, `columns x columns`; what is
/// below it means nothing.
///
/// H = R R^T with R upper, from the last column to the first, and U = R^-1: half the work of inverting H and
/// factoring the inverse, and no square of its condition.
struct InverseFactor: ~Copyable, Sendable {
  let columns: Int
  private(set) var elements: Matrix

  /// Nil where H is not positive definite in f32. Only the upper triangle of H is read.
  init?(of hessian: consuming Matrix) {
    precondition(hessian.rows == hessian.columns)
    columns = hessian.columns
    elements = hessian
    let panels = parts(of: columns, size: panel)
    let columns = columns
    // One thread in LAPACK: the parts are the parallelism.
    openblas_set_num_threads(1)
    let isPositive = elements.withRows { rows in
      for panel in panels.reversed() {
        guard Self.factorDiagonal(panel, rows, columns) else { return false }
        Self.factorAbove(panel, rows, columns)
      }
      for panel in panels.reversed() { Self.invert(panel, rows, columns) }
      return true
    }
    guard isPositive else { return nil }
  }

  /// R of the block on the diagonal: the Cholesky factor of the block turned round, turned back.
  private static func factorDiagonal(_ panel: Range<Int>, _ rows: RowPointers<Float>, _ columns: Int) -> Bool
  {
    let size = panel.count
    var turned = Buffer<Float>(count: size * size)
    return turned.withUnsafeMutable { turned in
      for i in 0..<size {
        for j in 0...i {
          turned[j * size + i] = rows[panel.upperBound - 1 - i][panel.upperBound - 1 - j]
        }
      }
      var (order, info) = (blasint(size), blasint(0))
      spotrf_("L", &order, turned.baseAddress!, &order, &info)
      guard info == 0 else { return false }
      for i in 0..<size {
        for j in 0...i {
          rows[panel.upperBound - 1 - i][panel.upperBound - 1 - j] = turned[j * size + i]
        }
        guard rows[panel.upperBound - 1 - i][panel.upperBound - 1 - i].isFinite else { return false }
      }
      return true
    }
  }

  /// R above that block, and what it takes from the columns to the left.
  private static func factorAbove(_ panel: Range<Int>, _ rows: RowPointers<Float>, _ columns: Int) {
    let above = panel.lowerBound
    guard above > 0 else { return }
    let bands = parts(of: above, size: part)
    Threads.forEach(bands.count) { index in
      let band = bands[index]
      cblas_strsm(
        CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, blasint(band.count),
        blasint(panel.count), 1, rows[above] + above, blasint(columns), rows[band.lowerBound] + above,
        blasint(columns))
    }
    let blocks = parts(of: above, size: Self.tile)
    let tiles = blocks.indices.flatMap { i in blocks[i...].map { (rows: blocks[i], columns: $0) } }
    Threads.forEach(tiles.count) { index in
      let tile = tiles[index]
      cblas_sgemm(
        CblasRowMajor, CblasNoTrans, CblasTrans, blasint(tile.rows.count), blasint(tile.columns.count),
        blasint(panel.count), -1, rows[tile.rows.lowerBound] + above, blasint(columns),
        rows[tile.columns.lowerBound] + above, blasint(columns), 1,
        rows[tile.rows.lowerBound] + tile.columns.lowerBound, blasint(columns))
    }
  }

  private static var tile: Int { 384 }

  /// The panel's columns of R^-1, while R still stands to the left of them.
  private static func invert(_ panel: Range<Int>, _ rows: RowPointers<Float>, _ columns: Int) {
    let above = panel.lowerBound
    var (order, stride, info) = (blasint(panel.count), blasint(columns), blasint(0))
    // Column-major: the upper triangle is the lower one.
    strtri_("L", "N", &order, rows[above] + above, &stride, &info)
    guard above > 0 else { return }
    let bands = parts(of: above, size: part)
    Threads.forEach(bands.count) { index in
      let band = bands[index]
      cblas_strmm(
        CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, blasint(band.count),
        blasint(panel.count), -1, rows[above] + above, blasint(columns), rows[band.lowerBound] + above,
        blasint(columns))
    }
    let slices = parts(of: panel.count, size: part)
    Threads.forEach(slices.count) { index in
      let slice = slices[index]
      cblas_strsm(
        CblasRowMajor, CblasLeft, CblasUpper, CblasNoTrans, CblasNonUnit, blasint(above),
        blasint(slice.count), 1, rows[0], blasint(columns), rows[0] + above + slice.lowerBound,
        blasint(columns))
    }
  }
}
