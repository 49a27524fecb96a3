import CKernels
import EspalierCore

/// Rows that take their steps together.
private let rowsAtATime = 16

/// What ``refineBySwaps(_:gram:mask:options:)`` is measured against: the same swaps, but every pair (kept, pruned) of a row is computed
/// at every step, in f32.
///
/// Of every row in `rows`; columns are a multiple of 16, and a row is searched as a whole, whatever the pattern.
///
/// - Returns: the outcome for these rows, its losses as the swaps added up.
public func refineByFullScan(
  _ weight: LinearWeight, gram: GramMatrix, mask: inout Mask, rows: Range<Int>, limit: Int
) -> SwapOutcome {
  let columns = weight.columns
  precondition(gram.columns == columns && mask.columns == columns && columns % 16 == 0)
  precondition(rows.lowerBound >= 0 && rows.upperBound <= min(weight.rows, mask.rows))
  let weights = weight.matrix(rows)
  var pruned = Matrix(rows: rows.count, columns: columns)
  var correlations = Matrix(rows: rows.count, columns: columns)
  var kept = Buffer<UInt8>(count: rows.count * columns)
  for row in 0..<rows.count {
    for column in 0..<columns {
      kept[row * columns + column] = mask[rows.lowerBound + row, column] ? 1 : 0
      pruned[row, column] = kept[row * columns + column] == 1 ? 0 : weights[row, column]
    }
  }
  gram.multiply(pruned, rows: rows.count, into: &correlations)
  let blocks = parts(of: rows.count, size: rowsAtATime)
  var outcomes = [espalier_swap_outcome](repeating: espalier_swap_outcome(), count: blocks.count)
  gram.withElements { gram in
    weights.elements.withUnsafe { w in
      correlations.elements.withUnsafe { c in
        kept.withUnsafeMutable { kept in
          outcomes.withUnsafeMutableBufferPointer { outcomes in
            nonisolated(unsafe) let (gram, w, c, kept, outcomes) = (
              gram, w.baseAddress!, c.baseAddress!, kept.baseAddress!, outcomes
            )
            Threads.forEach(blocks.count) { index in
              let start = blocks[index].lowerBound * columns
              let count = blocks[index].count
              var own = Buffer<Double>(count: count * columns)
              for element in 0..<count * columns { own[element] = Double(c[start + element]) }
              var scratch = Buffer<UInt8>(count: espalier_full_scan_scratch(columns, count))
              own.withUnsafeMutable { own in
                scratch.withUnsafeMutable { scratch in
                  outcomes[index] = espalier_full_scan(
                    columns, count, UInt64(limit), gram, w + start, kept + start, own.baseAddress!,
                    scratch.baseAddress!)
                }
              }
            }
          }
        }
      }
    }
  }
  for row in 0..<rows.count {
    for column in 0..<columns { mask[rows.lowerBound + row, column] = kept[row * columns + column] == 1 }
  }
  var outcome = SwapOutcome()
  for block in outcomes {
    outcome.lossBefore += block.before
    outcome.lossAfter += block.after
    outcome.swaps += Int(block.moves)
    outcome.evaluatedPairs += Int(block.evaluated)
    outcome.allPairs += Int(block.choices)
  }
  return outcome
}
