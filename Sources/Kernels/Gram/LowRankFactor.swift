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
  private let device: Device

  init(columns: Int, rank: Int, on device: Device) {
    self.columns = columns
    self.device = device
    mostRank = min(rank, columns)
    stack = Matrix(rows: 2 * mostRank, columns: columns)
  }

  /// Bytes that it holds at most.
  static func byteCount(columns: Int, rank: Int) -> Int {
    let rank = min(rank, columns)
    return 3 * rank * columns * 4 + 16 * rank * rank * 4
  }

  /// Adds rows of `columns` each.
  mutating func add(_ rows: Span<Float>) {
    let columns = columns
    let count = rows.count / columns
    var done = 0
    while done < count {
      let taken = min(count - done, stack.rows - filled)
      let range = filled * columns..<(filled + taken) * columns
      var part = stack.elements.part(range)
      part.copy(rows.extracting(done * columns..<(done + taken) * columns))
      filled += taken
      done += taken
      if filled == stack.rows { fold(to: mostRank) }
    }
  }

  /// Adds another factor of other rows: its rows as if they were inputs, and what it had discarded.
  mutating func add(_ other: GramMatrix) {
    precondition(other.columns == columns && other.isFactored)
    other.withFactor { factor, rest in
      add(factor)
      discarded += rest.reduce(0) { $0 + Double($1) }
    }
  }

  // MARK: - Pieces

  /// The rows of each piece of a stack.
  static func pieces(columns: Int, rank: Int) -> [Range<Int>] {
    parts(of: 2 * min(rank, columns), size: max(1, pieceBytes / max(1, columns * 4)))
  }

  /// Those of some rows that are filled, row after row.
  mutating func piece(_ rows: Range<Int>) -> [UInt8] {
    let all = stack.rowSpans
    return all[rows.clamped(to: 0..<filled)].withUnsafeBytes { [UInt8]($0) }
  }

  /// Adds rows of another factor, or of its inputs.
  ///
  /// - Returns: whether they are whole rows.
  mutating func add(_ piece: [UInt8]) -> Bool {
    guard piece.count % (columns * 4) == 0, piece.count <= stack.rows * columns * 4 else { return false }
    piece.withUnsafeBytes { add(Span(_unsafeElements: $0.bindMemory(to: Float.self))) }
    return true
  }

  /// Adds what another factor has given up.
  mutating func add(discarded: Double, isDamaged: Bool) {
    self.discarded += discarded
    if isDamaged { self.isDamaged = true }
  }

  mutating func clear() { (filled, rank, discarded, isDamaged) = (0, 0, 0, false) }

  // MARK: - The result

  /// Folds what is left, and gives up the smallest directions as long as `energy` of the trace stays.
  ///
  /// - Parameter trace: the trace of `X^T X`.
  mutating func finish(energy: Double, trace: Double) {
    fold(to: mostRank, losing: max(0, (1 - energy) * trace - discarded))
  }

  /// Elements of F, `rank x columns`.
  var elements: Span<Float> {
    @_lifetime(borrow self)
    borrowing get { stack.rowSpans[0..<rank] }
  }

  /// Sums of squares of F's columns.
  func diagonal() -> [Double] {
    var sums = [Double](repeating: 0, count: columns)
    for row in 0..<rank {
      let values = stack.rowSpans[row]
      for column in 0..<columns { sums[column] += Double(values[column]) * Double(values[column]) }
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
    var factor = Matrix(unfilled: kept, columns: columns)
    let (columns, device) = (columns, device)
    do {
      let (factor, stack) = (factor.mutableRowSpans, stack.elements.span)
      let vectors = vectors.span.extracting(dropped * count..<count * count)
      let panels = columnPanels(of: columns)
      device.forEach(panels.count) { index in
        let panel = panels[index]
        var all = factor[0..<kept]
        var part = all.part(panel.lowerBound..<all.count)
        multiply(
          rows: kept, columns: panel.count, inner: count, Operand(vectors, stride: count),
          Operand(stack.extracting(panel.lowerBound..<stack.count), stride: columns), into: &part,
          stride: columns)
      }
    }
    var part = stack.elements.part(0..<kept * columns)
    part.copy(factor.elements.span)
    rank = kept
    filled = kept
  }

  /// S S^T, `count x count`.
  private func products(_ count: Int) -> Buffer<Float> {
    var products = Buffer<Float>(unfilled: count * count)
    let columns = columns
    do {
      let (products, stack) = (products.mutableRowSpans(columns: count), stack.rowSpans)
      let panels = parts(of: count, size: 128)
      device.forEach(panels.count) { index in
        var part = products[panels[index]]
        multiply(
          rows: panels[index].count, columns: count, inner: columns,
          Operand(stack[panels[index]], stride: columns),
          Operand(stack[0..<count], stride: columns, isTransposed: true), into: &part, stride: count)
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
      guard let elements = matrix.baseAddress else { return }
      // The first call tells how much scratch memory the second one needs.
      for _ in 0..<2 {
        ssyevd_(
          "V", "L", &n, elements, &n, &values, &work, &workSize, &integers, &integerSize, &info)
        guard workSize < 0 else { break }
        (workSize, integerSize) = (Int32(work[0]) + 1, integers[0])
        work = [Float](repeating: 0, count: Int(workSize))
        integers = [Int32](repeating: 0, count: Int(integerSize))
      }
    }
    return info == 0 && values.allSatisfy(\.isFinite) ? values : nil
  }
}
