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

/// Rows that one thread scores at a time.
private let rowsAtATime = 16

extension Saliency {
  /// Bytes that ``mostSalient(_:_:diagonal:pattern:on:)`` takes, without the weight's pages and the mask.
  public static func workingSet(rows: Int, columns: Int, threads: Int) -> Int {
    min(threads, (rows + rowsAtATime - 1) / rowsAtATime)
      * SaliencyScratch.byteCount(columns: columns)
  }
}

/// The mask that keeps the most salient weights of every row, or of every group, with exact counts.
///
/// Of equal scores the lower index is pruned first.
///
/// - Parameter diagonal: `G_jj`, one for each column of the weight; not read for magnitude.
public func mostSalient(
  _ weight: LinearWeight, _ saliency: Saliency, diagonal: [Double], pattern: SparsityPattern,
  on device: Device
) -> Mask {
  let (rows, columns) = (weight.rows, weight.columns)
  precondition(pattern.fits(columns: columns))
  let span = pattern.span(ofColumns: columns)
  let keep = pattern.kept(ofColumns: span)
  let scores = SaliencyScores(weight, saliency, diagonal: diagonal)
  var mask = Mask(rows: rows, columns: columns, pattern: pattern)
  let blocks = parts(of: rows, size: rowsAtATime)
  do {
    let bits = mask.mutableRowSpans
    device.forEach(
      blocks.count, scratch: { SaliencyScratch(columns: columns, span: span) },
      {
        scratch, index in
        for row in blocks[index] {
          var bits = bits[row]
          scratch.select(weight, row: row, scores, span: span, keep: keep, into: &bits)
        }
      })
  }
  return mask
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
  ///
  /// - Parameter sums: scratch, as many as the row has weights.
  func score(_ w: Span<Float>, sums: inout MutableSpan<Double>, into scores: inout MutableSpan<Float>) {
    guard !columnSums.isEmpty else { return espalier_scores(w, scale.span, &scores) }
    let sum = espalier_add_magnitudes(w, &sums)
    espalier_relative_scores(Float(sum), w, columnSums.span, scale.span, &scores)
  }
}

private struct SaliencyScratch: ~Copyable {
  var weights: Buffer<Float>
  var scores: Buffer<Float>
  var order: Buffer<UInt32>
  var sums: Buffer<Double>
  var kept: Buffer<UInt8>

  /// The most bytes.
  static func byteCount(columns: Int) -> Int { columns * (4 + 4 + 4 + 8 + 1) }

  init(columns: Int, span: Int) {
    weights = Buffer(count: columns)
    scores = Buffer(count: columns)
    order = Buffer(count: span)
    sums = Buffer(count: columns)
    kept = Buffer(count: columns)
  }

  /// The bits of the most salient weights of a row, `keep` of every `span`.
  mutating func select(
    _ weight: LinearWeight, row: Int, _ saliency: SaliencyScores, span: Int, keep: Int,
    into bits: inout MutableSpan<UInt8>
  ) {
    var loaded = weights.mutableSpan
    weight.load(row..<row + 1, into: &loaded)
    Self.score(weights, saliency, &sums, into: &scores)
    for start in stride(from: 0, to: scores.count, by: span) {
      Self.select(scores, start..<start + span, keep: keep, &order, into: &kept)
    }
    packBits(kept.span, into: &bits)
  }

  private static func score(
    _ w: borrowing Buffer<Float>, _ saliency: SaliencyScores, _ sums: inout Buffer<Double>,
    into scores: inout Buffer<Float>
  ) {
    var sums = sums.mutableSpan
    var scores = scores.mutableSpan
    saliency.score(w.span, sums: &sums, into: &scores)
  }

  private static func select(
    _ scores: borrowing Buffer<Float>, _ range: Range<Int>, keep: Int, _ order: inout Buffer<UInt32>,
    into kept: inout Buffer<UInt8>
  ) {
    var order = order.mutableSpan
    var chosen = kept.mutableRowSpans(columns: range.count)[range.lowerBound / range.count]
    espalier_select_kept(keep, scores.span.extracting(range), &order, &chosen)
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
    _ = espalier_add_magnitudes(row.span, &sums)
  }
  return sums.map(Float.init)
}
