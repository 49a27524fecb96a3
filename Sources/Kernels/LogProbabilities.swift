import CKernels
import COpenBLAS
import EspalierCore
import Glibc

/// Rows of the head that are multiplied at a time.
private let panelRows = 512

/// Natural log-probabilities of given tokens under a softmax over the whole vocabulary.
///
/// The logits are never held together: panels of the head give each row's largest logit and sum of exponentials, which are then
/// merged in order.
///
/// - Parameters:
///   - states: `tokens x columns`, after the last norm.
///   - head: `vocabulary x columns`.
///   - targets: one token id below the vocabulary's size for each row.
/// - Returns: one log-probability for each row.
public func logProbabilities(_ states: borrowing Matrix, head: LinearWeight, targets: [Int32]) -> [Double] {
  let tokens = states.rows
  let columns = states.columns
  precondition(head.columns == columns && targets.count == tokens)
  precondition(targets.allSatisfy { $0 >= 0 && Int($0) < head.rows })
  guard tokens > 0 else { return [] }
  let panels = parts(of: head.rows, size: panelRows)
  var largest = [Float](repeating: 0, count: panels.count * tokens)
  var sums = [Double](repeating: 0, count: panels.count * tokens)
  var chosen = [Float](repeating: 0, count: tokens)
  states.elements.withUnsafe { states in
    largest.withUnsafeMutableBufferPointer { largest in
      sums.withUnsafeMutableBufferPointer { sums in
        chosen.withUnsafeMutableBufferPointer { chosen in
          nonisolated(unsafe) let (x, largest, sums, chosen) = (
            states.baseAddress!, largest.baseAddress!, sums.baseAddress!, chosen.baseAddress!
          )
          Threads.forEach(
            panels.count,
            scratch: { HeadScratch(tokens: tokens, rows: min(panelRows, head.rows), columns: columns) }
          ) { scratch, index in
            let panel = panels[index]
            scratch.multiply(x, tokens: tokens, head, panel) { logits in
              for token in 0..<tokens {
                let row = logits + token * panel.count
                espalier_log_sum_exp(
                  panel.count, row, largest + index * tokens + token, sums + index * tokens + token)
                if panel.contains(Int(targets[token])) {
                  chosen[token] = row[Int(targets[token]) - panel.lowerBound]
                }
              }
            }
          }
        }
      }
    }
  }
  return (0..<tokens).map { token in
    var top = -Float.infinity
    for panel in panels.indices { top = max(top, largest[panel * tokens + token]) }
    var sum = 0.0
    for panel in panels.indices {
      sum += sums[panel * tokens + token] * exp(Double(largest[panel * tokens + token] - top))
    }
    return Double(chosen[token]) - Double(top) - log(sum)
  }
}

private struct HeadScratch: ~Copyable {
  var weights: Buffer<Float>
  var logits: Buffer<Float>

  init(tokens: Int, rows: Int, columns: Int) {
    weights = Buffer(count: rows * columns)
    logits = Buffer(count: tokens * rows)
  }

  mutating func multiply(
    _ x: UnsafePointer<Float>, tokens: Int, _ head: LinearWeight, _ panel: Range<Int>,
    _ body: (UnsafePointer<Float>) -> Void
  ) {
    weights.withUnsafeMutable { w in
      logits.withUnsafeMutable { y in
        head.load(panel, into: w.baseAddress!)
        cblas_sgemm(
          CblasRowMajor, CblasNoTrans, CblasTrans, blasint(tokens), blasint(panel.count),
          blasint(head.columns), 1, x,
          blasint(head.columns), w.baseAddress!, blasint(head.columns), 0, y.baseAddress!,
          blasint(panel.count))
        body(UnsafePointer(y.baseAddress!))
      }
    }
  }
}
