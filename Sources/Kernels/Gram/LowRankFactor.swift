import CKernels
import COpenBLAS
import EspalierCore

/// A factor F, `rank x columns`, of the Gram matrix of all rows that were added: `F^T F` is close to `X^T X`.
///
/// Rows are collected until there are as many again as the rank; then the best approximation of that rank takes their place
/// (block-incremental SVD: Brand, "Incremental singular value decomposition of uncertain data", ECCV 2002, without the turn of
/// the other side). No matrix of `columns x columns` is ever made.
struct LowRankFactor: ~Copyable, Sendable {
  let columns: Int
  private let mostRank: Int
  /// F first, then rows not yet folded into it: `2 mostRank x columns`.
  private var stack: Matrix
  private var filled = 0
  /// Rows of F.
  private(set) var rank = 0
  /// The part of the trace of `X^T X` that no longer is in `F^T F`.
  private(set) var discarded = 0.0
  /// Whether rows were added that are not finite.
  private(set) var isDamaged = false

  init(columns: Int, rank: Int) {
    self.columns = columns
    mostRank = min(rank, columns)
    stack = Matrix(rows: 2 * mostRank, columns: columns)
  }

  /// Bytes that it holds at most.
  static func byteCount(columns: Int, rank: Int) -> Int {
    let rank = min(rank, columns)
    return 3 * rank * columns * 4 + 16 * rank * rank * 4
  }

  /// Adds rows of `columns` each.
  mutating func add(_ rows: UnsafePointer<Float>, count: Int) {
    var done = 0
    while done < count {
      let taken = min(count - done, stack.rows - filled)
      stack.elements.withUnsafeMutable {
        ($0.baseAddress! + filled * columns).update(from: rows + done * columns, count: taken * columns)
      }
      filled += taken
      done += taken
      if filled == stack.rows { fold(to: mostRank) }
    }
  }

  /// Adds another factor of other rows: its rows as if they were inputs, and what it had discarded.
  mutating func add(_ other: GramMatrix) {
    precondition(other.columns == columns && other.isFactored)
    other.withKernel { other in
      guard let factor = other.factor, let rest = other.rest else { return }
      add(factor, count: other.rank)
      discarded += (0..<columns).reduce(0) { $0 + Double(rest[$1]) }
    }
  }

  /// Folds what is left, and gives up the smallest directions as long as `energy` of the trace stays.
  ///
  /// - Parameter trace: the trace of `X^T X`.
  mutating func finish(energy: Double, trace: Double) {
    fold(to: mostRank, losing: max(0, (1 - energy) * trace - discarded))
  }

  /// Elements of F, `rank x columns`.
  func withElements<Result>(_ body: (UnsafeBufferPointer<Float>) throws -> Result) rethrows -> Result {
    try stack.elements.withUnsafe {
      try body(UnsafeBufferPointer(rebasing: $0[..<(rank * columns)]))
    }
  }

  /// Sums of squares of F's columns.
  func diagonal() -> [Double] {
    var sums = [Double](repeating: 0, count: columns)
    withElements { factor in
      for row in 0..<rank {
        for column in 0..<columns {
          let value = Double(factor[row * columns + column])
          sums[column] += value * value
        }
      }
    }
    return sums
  }

  /// F := U^T S for the stack S and the eigenvectors U of `S S^T` with the largest eigenvalues.
  private mutating func fold(to most: Int, losing allowed: Double = 0) {
    let count = filled
    guard count > 0 else { return }
    openblas_set_num_threads(1)
    var vectors = products(count)
    guard let values = Self.turnIntoEigenvectors(&vectors, count) else {
      isDamaged = true
      filled = 0
      return
    }
    // Ascending: the first ones go.
    var dropped = 0
    var lost = 0.0
    while dropped < count - 1 {
      let next = Double(max(0, values[dropped]))
      guard count - dropped > most || lost + next <= allowed else { break }
      lost += next
      dropped += 1
    }
    discarded += lost
    let kept = count - dropped
    var factor = Matrix(rows: kept, columns: columns)
    let columns = columns
    factor.elements.withUnsafeMutable { factor in
      stack.elements.withUnsafe { stack in
        vectors.withUnsafeMutable { vectors in
          nonisolated(unsafe) let (factor, stack, vectors) = (
            factor.baseAddress!, stack.baseAddress!, vectors.baseAddress! + dropped * count
          )
          let panels = parts(of: columns, size: 512)
          Threads.forEach(panels.count) { index in
            let panel = panels[index]
            cblas_sgemm(
              CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(kept), blasint(panel.count), blasint(count),
              1, vectors, blasint(count), stack + panel.lowerBound, blasint(columns), 0,
              factor + panel.lowerBound, blasint(columns))
          }
        }
      }
    }
    stack.elements.withUnsafeMutable { stack in
      factor.elements.withUnsafe { stack.baseAddress!.update(from: $0.baseAddress!, count: kept * columns) }
    }
    rank = kept
    filled = kept
  }

  /// S S^T, `count x count`.
  private func products(_ count: Int) -> Buffer<Float> {
    var products = Buffer<Float>(count: count * count)
    let columns = columns
    products.withUnsafeMutable { products in
      stack.elements.withUnsafe { stack in
        nonisolated(unsafe) let (products, stack) = (products.baseAddress!, stack.baseAddress!)
        let panels = parts(of: count, size: 128)
        Threads.forEach(panels.count) { index in
          let panel = panels[index]
          cblas_sgemm(
            CblasRowMajor, CblasNoTrans, CblasTrans, blasint(panel.count), blasint(count), blasint(columns),
            1,
            stack + panel.lowerBound * columns, blasint(columns), stack, blasint(columns), 0,
            products + panel.lowerBound * count, blasint(count))
        }
      }
    }
    return products
  }

  /// Replaces a symmetric matrix by its eigenvectors, in rows; returns the eigenvalues, ascending, or nil for a matrix with numbers
  /// that are not finite.
  private static func turnIntoEigenvectors(_ matrix: inout Buffer<Float>, _ count: Int) -> [Float]? {
    var values = [Float](repeating: 0, count: count)
    var n = Int32(count)
    var (workSize, integerSize): (Int32, Int32) = (-1, -1)
    var (work, integers): ([Float], [Int32]) = ([0], [0])
    var info: Int32 = 0
    matrix.withUnsafeMutable { matrix in
      // The first call tells how much room the second one needs.
      for _ in 0..<2 {
        ssyevd_(
          "V", "L", &n, matrix.baseAddress!, &n, &values, &work, &workSize, &integers, &integerSize, &info)
        guard workSize < 0 else { break }
        (workSize, integerSize) = (Int32(work[0]) + 1, integers[0])
        work = [Float](repeating: 0, count: Int(workSize))
        integers = [Int32](repeating: 0, count: Int(integerSize))
      }
    }
    return info == 0 && values.allSatisfy(\.isFinite) ? values : nil
  }
}
