import CKernels
import COpenBLAS
import EspalierCore
import EspalierIO

/// Columns of one tile of the Gram matrix.
private let tileSize = 384

/// Accumulates `G = X^T X` over the inputs of a site, for X of `tokens x columns` at a time, and the exact diagonal.
///
/// Tiles of the upper triangle are shared among the threads; the order of summation is that of the calls. f32 products are summed
/// per call, the diagonal in f64.
public struct GramAccumulator: ~Copyable, Sendable {
  public let columns: Int
  /// Tokens seen.
  public private(set) var tokens = 0
  /// Sums of every input over the tokens, f64, `columns`.
  public private(set) var sums: Buffer<Double>
  /// Sums of squares of every input, f64, `columns`.
  public private(set) var diagonal: Buffer<Double>
  /// `columns x columns`, its upper triangle only until ``finish()``; nil where it is not kept whole.
  private var gram: Matrix?
  /// A factor of low rank in place of the whole matrix.
  private var lowRank: LowRankFactor?
  public let form: GramForm
  private let tiles: [(rows: Range<Int>, columns: Range<Int>)]

  /// - Parameter diagonalOnly: leaves the matrix out; enough for Wanda and RIA.
  public init(columns: Int, diagonalOnly: Bool) {
    self.init(columns: columns, form: diagonalOnly ? .diagonal : .whole)
  }

  public init(columns: Int, form: GramForm) {
    self.columns = columns
    self.form = form
    sums = Buffer(count: columns)
    diagonal = Buffer(count: columns)
    gram = form == .whole ? Matrix(rows: columns, columns: columns) : nil
    if case .lowRank(let rank, _) = form {
      lowRank = LowRankFactor(columns: columns, rank: rank)
    } else {
      lowRank = nil
    }
    let ranges = parts(of: columns, size: tileSize)
    tiles = ranges.indices.flatMap { i in ranges[i...].map { (rows: ranges[i], columns: $0) } }
  }

  /// Adds the rows of `inputs`, or some of them.
  public mutating func add(_ inputs: borrowing Matrix, rows range: Range<Int>? = nil) {
    let range = range ?? 0..<inputs.rows
    precondition(inputs.columns == columns && range.lowerBound >= 0 && range.upperBound <= inputs.rows)
    let rows = range.count
    let columns = columns
    let tiles = tiles
    tokens += rows
    inputs.elements.withUnsafe { inputs in
      nonisolated(unsafe) let x = inputs.baseAddress! + range.lowerBound * columns
      sums.withUnsafeMutable { sums in
        diagonal.withUnsafeMutable { diagonal in
          nonisolated(unsafe) let (sums, squares) = (sums.baseAddress!, diagonal.baseAddress!)
          let ranges = parts(of: columns, size: tileSize)
          Threads.forEach(ranges.count) { index in
            let start = ranges[index].lowerBound
            for row in 0..<rows {
              espalier_add_moments(
                ranges[index].count, x + row * columns + start, sums + start, squares + start)
            }
          }
        }
      }
      lowRank?.add(x, count: rows)
      gram?.elements.withUnsafeMutable { gram in
        nonisolated(unsafe) let g = gram.baseAddress!
        Threads.forEach(tiles.count) { index in
          let tile = tiles[index]
          cblas_sgemm(
            CblasRowMajor, CblasTrans, CblasNoTrans, blasint(tile.rows.count), blasint(tile.columns.count),
            blasint(rows), 1,
            x + tile.rows.lowerBound, blasint(columns), x + tile.columns.lowerBound, blasint(columns), 1,
            g + tile.rows.lowerBound * columns + tile.columns.lowerBound, blasint(columns))
        }
      }
    }
  }

  /// Makes the matrix whole and symmetric, or folds the factor; call it once, after the last ``add(_:rows:)``.
  public mutating func finish() {
    let columns = columns
    gram?.elements.withUnsafeMutable { gram in
      let g = gram.baseAddress!
      for row in 0..<columns {
        for column in 0..<row { g[row * columns + column] = g[column * columns + row] }
      }
    }
    guard case .lowRank(_, let energy) = form else { return }
    let trace = trace
    lowRank?.finish(energy: energy, trace: trace)
  }

  /// Bytes that a factor of low rank takes while it grows.
  public static func lowRankByteCount(columns: Int, rank: Int) -> Int {
    LowRankFactor.byteCount(columns: columns, rank: rank)
  }

  /// The sum of the diagonal.
  private var trace: Double { (0..<columns).reduce(0) { $0 + diagonal[$1] } }

  /// The part of the trace that a factor of low rank leaves to the diagonal alone, from 0 to 1.
  public var discardedEnergy: Double {
    switch lowRank {
    case .some(let factor): trace > 0 ? min(1, factor.discarded / trace) : 0
    case .none: 0
    }
  }

  /// The first channel whose inputs are not finite; nil where all are.
  public var firstNotFinite: Int? {
    if let column = (0..<columns).first(where: { !diagonal[$0].isFinite }) { return column }
    switch lowRank {
    case .some(let factor): return factor.isDamaged ? 0 : nil
    case .none: return nil
    }
  }

  /// The tensors that ``append(to:)`` writes; their names begin with `name`.
  public func tensors(_ name: String) -> [(name: String, dtype: DType, shape: [Int])] {
    switch lowRank {
    case .some(let factor):
      [("\(name).factor", .f32, [factor.rank, columns]), ("\(name).rest", .f32, [columns])]
    case .none: form == .whole ? [(name, .f32, [columns, columns])] : []
    }
  }

  /// Writes the matrix, `columns x columns` in f32, or its factor, `rank x columns`, and what the diagonal has beyond it.
  public borrowing func append(to writer: inout SafetensorsWriter) throws {
    switch gram {
    case .some(let gram): try writer.append(gram.elements)
    case .none: break
    }
    switch lowRank {
    case .some(let factor):
      try factor.withElements { try writer.append(UnsafeRawBufferPointer($0)) }
      try writer.append(rest(factor))
    case .none: break
    }
  }

  private borrowing func rest(_ factor: borrowing LowRankFactor) -> [Float] {
    let known = factor.diagonal()
    return (0..<columns).map { Float(max(0, diagonal[$0] - known[$0])) }
  }

  /// The matrix, for use in memory; nil where only the diagonal was kept.
  public consuming func takeGram() -> GramMatrix? {
    switch consume gram {
    case .some(let gram): GramMatrix(gram)
    case .none: nil
    }
  }
}

/// What is kept of a Gram matrix.
public enum GramForm: Sendable, Hashable {
  case diagonal
  case whole
  /// A factor of at most this rank, as small as `energy` of the trace allows, and the exact diagonal.
  case lowRank(rank: Int, energy: Double)
}
