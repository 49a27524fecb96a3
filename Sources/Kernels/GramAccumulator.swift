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
  /// Sums of squares of every input, f64, `columns`.
  public private(set) var diagonal: Buffer<Double>
  /// `columns x columns`, its upper triangle only until ``finish()``; nil where only the diagonal is kept.
  private var gram: Matrix?
  public let hasGram: Bool
  private let tiles: [(rows: Range<Int>, columns: Range<Int>)]

  /// - Parameter diagonalOnly: leaves the matrix out; enough for Wanda and RIA.
  public init(columns: Int, diagonalOnly: Bool) {
    self.columns = columns
    diagonal = Buffer(count: columns)
    hasGram = !diagonalOnly
    gram = diagonalOnly ? nil : Matrix(rows: columns, columns: columns)
    let ranges = parts(of: columns, size: tileSize)
    tiles = ranges.indices.flatMap { i in ranges[i...].map { (rows: ranges[i], columns: $0) } }
  }

  /// Adds the rows of `inputs`.
  public mutating func add(_ inputs: borrowing Matrix) {
    precondition(inputs.columns == columns)
    let rows = inputs.rows
    let columns = columns
    let tiles = tiles
    tokens += rows
    inputs.elements.withUnsafe { inputs in
      nonisolated(unsafe) let x = inputs.baseAddress!
      diagonal.withUnsafeMutable { diagonal in
        nonisolated(unsafe) let sums = diagonal.baseAddress!
        let ranges = parts(of: columns, size: tileSize)
        Threads.forEach(ranges.count) { index in
          for row in 0..<rows {
            espalier_add_squares(
              ranges[index].count, x + row * columns + ranges[index].lowerBound,
              sums + ranges[index].lowerBound)
          }
        }
      }
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

  /// Fills the lower triangle, so that the matrix is whole and symmetric; call it once, after the last ``add(_:)``.
  public mutating func finish() {
    let columns = columns
    gram?.elements.withUnsafeMutable { gram in
      let g = gram.baseAddress!
      for row in 0..<columns {
        for column in 0..<row { g[row * columns + column] = g[column * columns + row] }
      }
    }
  }

  /// Writes the matrix, `columns x columns` in f32.
  public borrowing func append(to writer: inout SafetensorsWriter) throws {
    switch gram {
    case .some(let gram): try writer.append(gram.elements)
    case .none: break
    }
  }

  /// The matrix, for use in memory; nil where only the diagonal was kept.
  public consuming func takeGram() -> GramMatrix? {
    switch consume gram {
    case .some(let gram): GramMatrix(gram)
    case .none: nil
    }
  }
}
