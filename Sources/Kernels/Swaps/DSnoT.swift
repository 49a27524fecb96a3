import CKernels
import EspalierCore

/// How DSnoT refines a mask.
public struct DSnoTOptions: Sendable {
  /// The most moves of one row.
  public var cycles: Int
  /// A row ends if its expected error is at most this share of the root mean square error of its pruned weights, were their
  /// inputs uncorrelated. The published code compares with 0.1 itself, whatever the scale of the layer.
  public var threshold: Double

  public init(cycles: Int = 50, threshold: Double = 0.3) {
    self.cycles = cycles
    self.threshold = threshold
  }

  /// Bytes that refining a matrix takes, without the weight's pages and the mask.
  public func workingSet(rows: Int, columns: Int, pattern: SparsityPattern?, threads: Int) -> Int {
    RowBlock.byteCount(rows: rows, columns: columns) + min(threads, rows, RowBlock.mostRows) * columns
      + min(rows, RowBlock.mostRows) * MemoryLayout<espalier_dsnot>.stride
  }
}

/// What DSnoT did to the mask of one matrix.
public struct DSnoTOutcome: Sendable {
  /// Sums over the rows of the magnitude of the expected error of an output.
  public var errorBefore = 0.0
  public var errorAfter = 0.0
  public var moves = 0
  /// The most moves of one row.
  public var mostMoves = 0
}

/// Restores and prunes weights of every row, or within its groups, so that the mean of its output comes closer to that of the dense
/// row (DSnoT, arXiv 2310.08915, section 3.2); counts stay exact.
///
/// - Parameters:
///   - weight: `rows x columns`, without a mask of its own.
///   - diagonal: the sum of squares of every input.
///   - means: the mean of every input.
///   - tokens: the number of inputs.
public func refineByDSnoT(
  _ weight: LinearWeight, diagonal: [Double], means: [Double], tokens: Int, mask: inout Mask,
  options: DSnoTOptions = DSnoTOptions(), on device: Device
) -> DSnoTOutcome {
  let columns = weight.columns
  precondition(
    mask.rows == weight.rows && mask.columns == columns && diagonal.count == columns
      && means.count == columns && weight.mask == nil)
  let squares = diagonal.map { $0 / Double(max(1, tokens)) }
  let span = mask.pattern.span(ofColumns: columns)
  var outcome = DSnoTOutcome()
  for range in parts(of: weight.rows, size: RowBlock.mostRows) {
    var block = RowBlock(weight, mask, rows: range, on: device)
    var outcomes = Buffer<espalier_dsnot>(count: range.count)
    do {
      let spans = block.spans
      let found = outcomes.mutableRowSpans(columns: 1)
      device.forEach(
        range.count, scratch: { Buffer<UInt8>(count: columns) },
        { moved, row in
          var found = found[row]
          var kept = spans.kept[row]
          var moved = moved.mutableSpan
          found[0] = espalier_dsnot_row(
            span, UInt64(options.cycles), options.threshold, spans.weights[row].span, means.span,
            squares.span,
            &kept, &moved)
        })
    }
    block.storeKept(into: &mask)
    for row in 0..<range.count {
      outcome.errorBefore += abs(outcomes[row].before)
      outcome.errorAfter += abs(outcomes[row].after)
      outcome.moves += Int(outcomes[row].moves)
      outcome.mostMoves = max(outcome.mostMoves, Int(outcomes[row].moves))
    }
  }
  return outcome
}
