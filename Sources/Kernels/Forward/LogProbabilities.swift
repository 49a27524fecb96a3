import CKernels
import COpenBLAS
import EspalierCore
import Glibc

/// Rows of the head that are multiplied at a time.
private let panelRows = 512

/// The last layer of a language model: what turns a state into one logit for each token.
public struct OutputHead: Sendable {
  /// `vocabulary x columns`.
  public let weight: LinearWeight
  /// One for each token, or none.
  public let bias: [Float]
  /// Logits become `cap tanh(logit / cap)`; 0 for none.
  public let softCap: Float

  public init(weight: LinearWeight, bias: [Float] = [], softCap: Float = 0) {
    precondition(bias.isEmpty || bias.count == weight.rows)
    self.weight = weight
    self.bias = bias
    self.softCap = softCap
  }

  /// All logits of some states, `tokens x vocabulary`.
  public func logits(_ states: borrowing Matrix) -> Matrix {
    var input = Matrix(unfilled: states.rows, columns: states.columns)
    copyColumns(states, [(0, 0, states.columns)], into: &input)
    let packed = PackedMatrix(rounding: &input, .f32)
    var logits = Matrix(unfilled: states.rows, columns: weight.rows)
    linear(packed, weight, into: &logits)
    let columns = weight.rows
    forEachBlock(of: &logits) { rows, start in
      for row in 0..<rows.count { finish(start + row * columns, 0..<columns) }
    }
    return logits
  }

  /// Completes the logits of some tokens of the vocabulary for one state.
  fileprivate func finish(_ logits: UnsafeMutablePointer<Float>, _ tokens: Range<Int>) {
    if !bias.isEmpty {
      bias.withUnsafeBufferPointer { espalier_add(tokens.count, $0.baseAddress! + tokens.lowerBound, logits) }
    }
    if softCap > 0 {
      espalier_scale(tokens.count, 1 / softCap, logits)
      espalier_tanh(tokens.count, logits)
      espalier_scale(tokens.count, softCap, logits)
    }
  }
}

/// Natural log-probabilities of given tokens under a softmax over the whole vocabulary.
///
/// The logits are never held together: panels of the head give each row's largest logit and sum of exponentials, which are then
/// merged in order.
///
/// - Parameters:
///   - states: `tokens x columns`, after the last norm.
///   - output: the head, `vocabulary x columns`.
///   - targets: one token id below the vocabulary's size for each row.
/// - Returns: one log-probability for each row.
public func logProbabilities(_ states: borrowing Matrix, head output: OutputHead, targets: [Int32])
  -> [Double]
{
  let head = output.weight
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
                output.finish(row, panel)
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
    _ body: (UnsafeMutablePointer<Float>) -> Void
  ) {
    weights.withUnsafeMutable { w in
      logits.withUnsafeMutable { y in
        head.load(panel, into: w.baseAddress!)
        cblas_sgemm(
          CblasRowMajor, CblasNoTrans, CblasTrans, blasint(tokens), blasint(panel.count),
          blasint(head.columns), 1, x,
          blasint(head.columns), w.baseAddress!, blasint(head.columns), 0, y.baseAddress!,
          blasint(panel.count))
        body(y.baseAddress!)
      }
    }
  }
}
