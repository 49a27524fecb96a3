import CKernels
import EspalierCore
import Glibc

/// How much a single weight matters; the larger, the sooner it is kept.
public enum Saliency: Hashable, Sendable {
  /// `|W_ij|`
  case magnitude
  /// `|W_ij| sqrt(G_jj)`: Wanda (arXiv 2306.11695, eq. 1), with G the Gram matrix of the inputs.
  case wanda
  /// `(|W_ij| / colsum_j + |W_ij| / rowsum_i) sqrt(G_jj)^power`: RIA (Zhang et al., ICLR 2024, eq. 4).
  case ria(power: Double)
}

/// Rows that one thread scores at a time.
private let rowsAtATime = 16

/// The mask that keeps the most salient weights of every row, or of every group, with exact counts.
///
/// Of equal scores the lower index is pruned first.
///
/// - Parameter diagonal: `G_jj`, one for each column of the weight; not read for magnitude.
public func mostSalient(
  _ weight: LinearWeight, _ saliency: Saliency, diagonal: [Double], pattern: SparsityPattern
) -> Mask {
  let (rows, columns) = (weight.rows, weight.columns)
  precondition(pattern.fits(columns: columns))
  let span = pattern.span(ofColumns: columns)
  let keep = pattern.kept(ofColumns: span)
  let scores = SaliencyScores(weight, saliency, diagonal: diagonal)
  var mask = Mask(rows: rows, columns: columns, pattern: pattern)
  let rowBytes = mask.rowBytes
  let blocks = parts(of: rows, size: rowsAtATime)
  mask.withUnsafeMutableBits { bits in
    nonisolated(unsafe) let bits = bits
    Threads.forEach(blocks.count, scratch: { SaliencyScratch(columns: columns) }) { scratch, index in
      for row in blocks[index] {
        scratch.score(weight, row: row, scores)
        scratch.select(span: span, keep: keep, into: bits.baseAddress! + row * rowBytes)
      }
    }
  }
  return mask
}

/// Scores the weights of one matrix, row by row.
struct SaliencyScores: Sendable {
  let columns: Int
  private let scale: [Float]
  /// Sums of the magnitudes of every column; empty where the saliency does not read them.
  private let columnSums: [Float]

  /// - Parameter diagonal: `G_jj` of every column; not read for magnitude.
  init(_ weight: LinearWeight, _ saliency: Saliency, diagonal: [Double]) {
    columns = weight.columns
    switch saliency {
    case .magnitude:
      scale = [Float](repeating: 1, count: weight.columns)
      columnSums = []
    case .wanda:
      scale = diagonal.map { Float(max($0, 0)).squareRoot() }
      columnSums = []
    case .ria(let power):
      scale = diagonal.map { Float(pow(max($0, 0).squareRoot(), power)) }
      columnSums = magnitudeSums(of: weight)
    }
    precondition(scale.count == columns)
  }

  /// The scores of one row of weights.
  ///
  /// - Parameter room: as many as the row has weights, where the saliency reads sums of magnitudes.
  func score(
    _ w: UnsafePointer<Float>, room: UnsafeMutablePointer<Double>?, into scores: UnsafeMutablePointer<Float>
  ) {
    guard !columnSums.isEmpty, let room else { return espalier_scores(columns, w, scale, scores) }
    let sum = espalier_add_magnitudes(columns, w, room)
    espalier_relative_scores(columns, Float(sum), w, columnSums, scale, scores)
  }
}

private struct SaliencyScratch: ~Copyable {
  var weights: Buffer<Float>
  var scores: Buffer<Float>
  var order: Buffer<UInt32>
  var sums: Buffer<Double>
  var kept: Buffer<UInt8>

  init(columns: Int) {
    weights = Buffer(count: columns)
    scores = Buffer(count: columns)
    order = Buffer(count: columns)
    sums = Buffer(count: columns)
    kept = Buffer(count: columns)
  }

  mutating func score(_ weight: LinearWeight, row: Int, _ saliency: SaliencyScores) {
    weights.withUnsafeMutable { weights in
      let w = weights.baseAddress!
      weight.load(row..<row + 1, into: w)
      scores.withUnsafeMutable { scores in
        sums.withUnsafeMutable { saliency.score(w, room: $0.baseAddress, into: scores.baseAddress!) }
      }
    }
  }

  mutating func select(span: Int, keep: Int, into bits: UnsafeMutablePointer<UInt8>) {
    let columns = scores.count
    scores.withUnsafe { scores in
      order.withUnsafeMutable { order in
        kept.withUnsafeMutable { kept in
          for start in stride(from: 0, to: columns, by: span) {
            espalier_select_kept(
              span, keep, scores.baseAddress! + start, order.baseAddress!, kept.baseAddress! + start)
          }
          espalier_pack_bits(columns, kept.baseAddress!, bits)
        }
      }
    }
  }
}

/// Sums of the magnitudes of every column, summed in f64 in the order of the rows.
private func magnitudeSums(of weight: LinearWeight) -> [Float] {
  var sums = [Double](repeating: 0, count: weight.columns)
  var row = Buffer<Float>(count: weight.columns)
  for index in 0..<weight.rows {
    row.withUnsafeMutable { row in
      weight.load(index..<index + 1, into: row.baseAddress!)
      sums.withUnsafeMutableBufferPointer {
        _ = espalier_add_magnitudes(weight.columns, row.baseAddress!, $0.baseAddress!)
      }
    }
  }
  return sums.map(Float.init)
}
