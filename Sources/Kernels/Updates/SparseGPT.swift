import CKernels
import COpenBLAS
import EspalierCore

/// How SparseGPT prunes.
public struct SparseGPTOptions: Sendable {
  /// What is added to the diagonal of G, as a share of its mean; ten times as much, again and again, where
  /// that is not enough.
  public var damping: Double
  /// Columns whose masks are chosen at a time, rounded to whole groups for N:M.
  public var blockColumns: Int

  public init(damping: Double = 0.01, blockColumns: Int = 128) {
    self.damping = damping
    self.blockColumns = blockColumns
  }
}

/// What SparseGPT did.
public struct SparseGPTOutcome: Sendable {
  public var mask: Mask
  /// The damping that was used: more than what was asked for where G was not positive definite with that.
  public var damping: Double
}

/// Rows and columns of a product that one thread takes.
private let columnPanel = 512

/// Prunes column by column, and lets the weights to the right make up for each that goes (SparseGPT, arXiv
/// 2301.00774, algorithm 1).
///
/// Counts are exact. In a row, the block of columns [a, b) of d prunes `floor(n b / d) - floor(n a / d)` of
/// the n weights that go, the least of (w_j / U_jj)^2; with `.matrix` that is the count of the block over all
/// rows, as in the published code, and all rows are held at once. In a group of N:M the least are chosen when
/// its first column is reached. Channels without input lose their weights.
///
/// - Parameters:
///   - weight: `rows x columns`, dense.
///   - gram: `columns x columns`.
///   - write: takes the new weights, 0 where pruned, in blocks of rows, the first row first.
/// - Throws: bad input where no damping makes G positive definite; what `write` throws.
public func pruneBySparseGPT(
  _ weight: LinearWeight, gram: GramMatrix, pattern: SparsityPattern,
  options: SparseGPTOptions = SparseGPTOptions(), write: (borrowing Matrix) throws -> Void
) throws -> SparseGPTOutcome {
  precondition(
    gram.columns == weight.columns && pattern.fits(columns: weight.columns) && weight.mask == nil)
  let curvature = try Curvature(gram, damping: options.damping)
  var mask = Mask(rows: weight.rows, columns: weight.columns, pattern: pattern)
  let rowsAtOnce = if case .matrix = pattern { weight.rows } else { fittedRows }
  for rows in parts(of: weight.rows, size: rowsAtOnce) {
    var weights = weight.matrix(rows)
    var kept = KeptRows(rows: rows.count, columns: weight.columns)
    prune(&weights, &kept, curvature, pattern, options)
    kept.store(into: &mask, firstRow: rows.lowerBound)
    try write(weights)
  }
  return SparseGPTOutcome(mask: mask, damping: curvature.damping)
}

/// The factor of the inverse Hessian, and the damping that it took.
private struct Curvature: ~Copyable {
  let factor: InverseFactor
  let damping: Double
  /// 0 for channels without input, else 1.
  let alive: [Float]

  init(_ gram: GramMatrix, damping: Double) throws {
    var diagonal = gram.diagonal
    alive = diagonal.map { $0 > 0 ? 1 : 0 }
    for channel in diagonal.indices where alive[channel] == 0 { diagonal[channel] = 1 }
    let mean = diagonal.reduce(0, +) / Double(max(1, diagonal.count))
    var share = damping
    while true {
      if let factor = InverseFactor(of: Self.hessian(gram, diagonal.map { Float($0 + share * mean) })) {
        self.factor = factor
        self.damping = share
        return
      }
      share = max(share * 10, 1e-6)
      guard share <= 1 else {
        throw EspalierError.badInput(
          "the Gram matrix is not positive definite even with its mean diagonal added; its inputs are broken."
        )
      }
    }
  }

  private static func hessian(_ gram: GramMatrix, _ diagonal: [Float]) -> Matrix {
    let columns = gram.columns
    var hessian = Matrix(rows: columns, columns: columns)
    hessian.withRows { rows in
      let bands = parts(of: columns, size: 64)
      Threads.forEach(bands.count) { index in
        gram.load(bands[index], into: rows[bands[index].lowerBound])
        for row in bands[index] { rows[row][row] = diagonal[row] }
      }
    }
    return hessian
  }
}

/// Prunes a block of rows, and sets `kept` to what stays.
private func prune(
  _ weights: inout Matrix, _ kept: inout KeptRows, _ curvature: borrowing Curvature,
  _ pattern: SparsityPattern, _ options: SparseGPTOptions
) {
  let (rows, columns) = (weights.rows, weights.columns)
  let (group, goesOfGroup) = if case .groups(let keep, let of) = pattern { (of, of - keep) } else { (0, 0) }
  let width = max(1, options.blockColumns / max(1, group)) * max(1, group)
  let goes = columns - pattern.kept(ofColumns: columns)
  var errors = Matrix(rows: rows, columns: width)
  let alive = curvature.alive
  curvature.factor.elements.elements.withUnsafe { factor in
    weights.withRows { weights in
      kept.withRows { kept in
        errors.withRows { errors in
          nonisolated(unsafe) let factor = factor.baseAddress!
          Threads.forEach(rows) { row in
            for channel in 0..<columns { weights[row][channel] *= alive[channel] }
          }
          for block in parts(of: columns, size: width) {
            let start = block.lowerBound
            nonisolated(unsafe) let diagonal = factor + start * (columns + 1)
            if group == 0 {
              // Multiplied first, so that the last block's count makes the total exact.
              let count = goes * block.upperBound / columns - goes * start / columns
              choose(block, count, diagonal, columns, weights, kept, rows: rows, pattern)
            }
            Threads.forEach(rows) { row in
              espalier_obs_row(
                block.count, columns, diagonal, group, goesOfGroup, weights[row] + start, kept[row] + start,
                errors[row])
            }
            let panels = parts(of: columns - block.upperBound, size: columnPanel)
            Threads.forEach(panels.count) { index in
              let first = block.upperBound + panels[index].lowerBound
              cblas_sgemm(
                CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(rows), blasint(panels[index].count),
                blasint(block.count), -1, errors[0], blasint(width),
                factor + start * columns + first, blasint(columns), 1, weights[0] + first, blasint(columns))
            }
          }
        }
      }
    }
  }
}

/// Chooses the weights of a block of columns that go: `count` of every row, or as many over all rows with
/// `.matrix`.
private func choose(
  _ block: Range<Int>, _ count: Int, _ diagonal: UnsafePointer<Float>, _ columns: Int,
  _ weights: RowPointers<Float>, _ kept: RowPointers<UInt8>, rows: Int, _ pattern: SparsityPattern
) {
  nonisolated(unsafe) let diagonal = diagonal
  let rowsTogether = if case .matrix = pattern { rows } else { 1 }
  let sets = parts(of: rows, size: rowsTogether)
  Threads.forEach(
    sets.count, scratch: { Choice(count: rowsTogether * block.count) },
    { choice, index in choice.choose(sets[index], block, count, diagonal, columns, weights, kept) })
}

private struct Choice: ~Copyable {
  var scores: Buffer<Float>
  var order: Buffer<UInt32>
  var chosen: Buffer<UInt8>

  init(count: Int) {
    scores = Buffer(count: count)
    order = Buffer(count: count)
    chosen = Buffer(count: count)
  }

  mutating func choose(
    _ rows: Range<Int>, _ block: Range<Int>, _ count: Int, _ diagonal: UnsafePointer<Float>, _ columns: Int,
    _ weights: RowPointers<Float>, _ kept: RowPointers<UInt8>
  ) {
    let width = block.count
    scores.withUnsafeMutable { scores in
      order.withUnsafeMutable { order in
        chosen.withUnsafeMutable { chosen in
          let (scores, chosen) = (scores.baseAddress!, chosen.baseAddress!)
          for (index, row) in rows.enumerated() {
            espalier_obs_scores(
              width, columns, diagonal, weights[row] + block.lowerBound, scores + index * width)
          }
          espalier_select_kept(
            rows.count * width, rows.count * (width - count), scores, order.baseAddress!, chosen)
          for (index, row) in rows.enumerated() {
            (kept[row] + block.lowerBound).update(from: chosen + index * width, count: width)
          }
        }
      }
    }
  }
}
