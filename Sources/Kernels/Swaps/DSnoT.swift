import CKernels
import EspalierCore

/// How DSnoT refines a mask.
public struct DSnoTOptions: Sendable {
  /// The most moves of one row.
  public var cycles: Int
  /// A row ends where its expected error is at most this share of the root mean square error of its pruned
  /// weights, were their inputs uncorrelated. The published code compares with 0.1 itself, whatever the scale
  /// of the layer.
  public var threshold: Double

  public init(cycles: Int = 50, threshold: Double = 0.3) {
    self.cycles = cycles
    self.threshold = threshold
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

/// Grows and prunes weights of every row, or within its groups, so that the mean of its output comes closer
/// to that of the dense row (DSnoT, arXiv 2310.08915, section 3.2); counts stay exact.
///
/// - Parameters:
///   - weight: `rows x columns`, without a mask of its own.
///   - diagonal: the sum of squares of every input.
///   - means: the mean of every input.
///   - tokens: the number of inputs.
public func refineByDSnoT(
  _ weight: LinearWeight, diagonal: [Double], means: [Double], tokens: Int, mask: inout Mask,
  options: DSnoTOptions = DSnoTOptions()
) -> DSnoTOutcome {
  let columns = weight.columns
  precondition(
    mask.rows == weight.rows && mask.columns == columns && diagonal.count == columns
      && means.count == columns && weight.mask == nil)
  let squares = diagonal.map { $0 / Double(max(1, tokens)) }
  let span = mask.pattern.span(ofColumns: columns)
  var outcome = DSnoTOutcome()
  for range in parts(of: weight.rows, size: fittedRows) {
    var weights = weight.matrix(range)
    var kept = KeptRows(mask, rows: range)
    var rows = [espalier_dsnot](repeating: espalier_dsnot(), count: range.count)
    rows.withUnsafeMutableBufferPointer { rows in
      weights.withRows { weights in
        kept.withRows { kept in
          nonisolated(unsafe) let rows = rows
          Threads.forEach(rows.count, scratch: { Buffer<UInt8>(count: columns) }) { moved, row in
            moved.withUnsafeMutable { moved in
              rows[row] = espalier_dsnot_row(
                columns, span, UInt64(options.cycles), options.threshold, weights[row], means, squares,
                kept[row], moved.baseAddress!)
            }
          }
        }
      }
    }
    kept.store(into: &mask, firstRow: range.lowerBound)
    for row in rows {
      outcome.errorBefore += abs(row.before)
      outcome.errorAfter += abs(row.after)
      outcome.moves += Int(row.moves)
      outcome.mostMoves = max(outcome.mostMoves, Int(row.moves))
    }
  }
  return outcome
}
