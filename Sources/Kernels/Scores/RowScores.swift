import CKernels
import EspalierCore
import Synchronization

/// Writes a score for each weight of a row; the weights with the highest scores are kept. Scores may be any finite numbers.
///
/// It is called from several threads at once, in any order. Its arguments are the index of the row, the weights, and the scores: as
/// many as the row has weights.
public typealias RowScores = @Sendable (Int, Span<Float>, inout MutableSpan<Float>) -> Void

/// Rows that one thread scores at a time.
private let rowsAtATime = 16

/// The mask that keeps the weights with the highest scores in every row, or in every group, with exact counts.
///
/// Of equal scores the lower index is pruned first.
///
/// - Parameter pattern: divides the columns.
/// - Returns: the mask, and the first row with a score that is not finite; nil if there is none.
public func highestScoring(
  _ weight: LinearWeight, _ score: @escaping RowScores, pattern: SparsityPattern, on device: Device
) -> (mask: Mask, notFinite: Int?) {
  let (rows, columns) = (weight.rows, weight.columns)
  precondition(pattern.fits(columns: columns))
  let span = pattern.span(ofColumns: columns)
  let keep = pattern.kept(ofColumns: span)
  var mask = Mask(rows: rows, columns: columns, pattern: pattern)
  let blocks = parts(of: rows, size: rowsAtATime)
  let notFinite = Atomic<Int>(Int.max)
  do {
    let bits = mask.mutableRowSpans
    device.forEach(
      blocks.count, scratch: { ScoreScratch(columns: columns, span: span) },
      {
        scratch, index in
        for row in blocks[index] {
          var bits = bits[row]
          let isFinite = scratch.select(weight, row: row, score, span: span, keep: keep, into: &bits)
          if !isFinite { notFinite.min(row, ordering: .relaxed) }
        }
      })
  }
  let first = notFinite.load(ordering: .relaxed)
  return (mask, first == Int.max ? nil : first)
}

/// Bytes that ``highestScoring(_:_:pattern:on:)`` takes, without the weight's pages and the mask.
public func scoringByteCount(rows: Int, columns: Int, threads: Int) -> Int {
  min(threads, (rows + rowsAtATime - 1) / rowsAtATime) * ScoreScratch.byteCount(columns: columns)
}

private struct ScoreScratch: ~Copyable {
  var weights: Buffer<Float>
  var scores: Buffer<Float>
  var order: Buffer<UInt32>
  var kept: Buffer<UInt8>

  /// The most bytes.
  static func byteCount(columns: Int) -> Int { columns * (4 + 4 + 4 + 1) }

  init(columns: Int, span: Int) {
    weights = Buffer(count: columns)
    scores = Buffer(count: columns)
    order = Buffer(count: span)
    kept = Buffer(count: columns)
  }

  /// The bits of the weights with the highest scores of a row, `keep` of every `span`.
  ///
  /// - Returns: whether all scores are finite.
  mutating func select(
    _ weight: LinearWeight, row: Int, _ score: RowScores, span: Int, keep: Int,
    into bits: inout MutableSpan<UInt8>
  ) -> Bool {
    var loaded = weights.mutableSpan
    weight.load(row..<row + 1, into: &loaded)
    Self.write(score, row, weights, into: &scores)
    for start in stride(from: 0, to: scores.count, by: span) {
      Self.select(scores, start..<start + span, keep: keep, &order, into: &kept)
    }
    packBits(kept.span, into: &bits)
    return Self.isFinite(scores.span)
  }

  private static func write(
    _ score: RowScores, _ row: Int, _ weights: borrowing Buffer<Float>, into scores: inout Buffer<Float>
  ) {
    var scores = scores.mutableSpan
    score(row, weights.span, &scores)
  }

  private static func isFinite(_ scores: Span<Float>) -> Bool {
    // A sum of zeros, unless one of the scores is not finite.
    var sum: Float = 0
    for index in scores.indices { sum += scores[index] * 0 }
    return sum == 0
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
