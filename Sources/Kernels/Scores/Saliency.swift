import CKernels
import EspalierCore
import Glibc

/// How much a single weight matters. The most salient weights are kept.
public enum Saliency: Hashable, Sendable {
  /// `|W_ij|`
  case magnitude
  /// `|W_ij| sqrt(G_jj)`: Wanda (arXiv 2306.11695, eq. 1), with G the Gram matrix of the inputs.
  case wanda
  /// `(|W_ij| / colsum_j + |W_ij| / rowsum_i) sqrt(G_jj)^power`: RIA (Zhang et al., ICLR 2024, eq. 4).
  case ria(power: Double)
}

extension Saliency {
  /// The scores of the rows of one matrix.
  ///
  /// - Parameter diagonal: `G_jj`, one for each column of the weight; not read for magnitude.
  public func scores(of weight: LinearWeight, diagonal: [Double]) -> RowScores {
    let scores = SaliencyScores(weight, self, diagonal: diagonal)
    return { _, row, output in scores.score(row, into: &output) }
  }
}

/// The mask that keeps the most salient weights of every row, or of every group, with exact counts.
///
/// - Parameter diagonal: `G_jj`, one for each column of the weight; not read for magnitude.
public func mostSalient(
  _ weight: LinearWeight, _ saliency: Saliency, diagonal: [Double], pattern: SparsityPattern,
  on device: Device
) -> Mask {
  highestScoring(
    weight, saliency.scores(of: weight, diagonal: diagonal), pattern: pattern, on: device
  ).mask
}

/// Scores the weights of one matrix, row by row.
struct SaliencyScores: Sendable {
  let columns: Int
  private let scale: [Float]
  /// Sums of the magnitudes of every column; empty if the saliency does not read them.
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
  func score(_ w: Span<Float>, into scores: inout MutableSpan<Float>) {
    guard !columnSums.isEmpty else { return espalier_scores(w, scale.span, &scores) }
    espalier_relative_scores(Float(espalier_sum_magnitudes(w)), w, columnSums.span, scale.span, &scores)
  }
}

/// Sums of the magnitudes of every column, summed in f64 in the order of the rows.
private func magnitudeSums(of weight: LinearWeight) -> [Float] {
  var sums = [Double](repeating: 0, count: weight.columns)
  var row = Buffer<Float>(count: weight.columns)
  for index in 0..<weight.rows {
    var loaded = row.mutableSpan
    weight.load(index..<index + 1, into: &loaded)
    var sums = sums.mutableSpan
    espalier_add_magnitudes(row.span, &sums)
  }
  return sums.map(Float.init)
}
