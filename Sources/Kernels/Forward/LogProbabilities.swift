import CKernels
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
  ///
  /// - Parameter decodes: whether up to 16 states are multiplied with the weight as it lies, see ``PackedMatrix/Layout``.
  public func logits(_ states: borrowing Matrix, decodes: Bool = false, on device: Device) -> Matrix {
    var input = device.matrix(unfilled: states.rows, columns: states.columns)
    copyColumns(states, [(0, 0, states.columns)], into: &input, on: device)
    let packed =
      decodes && input.rows <= PackedMatrix.Layout.fewRows
      ? PackedMatrix(few: &input, .f32, on: device) : PackedMatrix(rounding: &input, .f32, on: device)
    var logits = device.matrix(unfilled: states.rows, columns: weight.rows)
    linear(packed, weight, into: &logits, on: device)
    do {
      let rows = logits.mutableRowSpans
      device.forEachBlock(ofRows: rows.rows) {
        for row in $0 {
          var line = rows[row]
          finish(&line, 0..<rows.columns)
        }
      }
    }
    return logits
  }

  /// Completes the logits of some tokens of the vocabulary for one state.
  fileprivate func finish(_ logits: inout MutableSpan<Float>, _ tokens: Range<Int>) {
    if !bias.isEmpty { espalier_add(bias.span.extracting(tokens), &logits) }
    if softCap > 0 {
      espalier_scale(1 / softCap, &logits)
      espalier_tanh(&logits)
      espalier_scale(softCap, &logits)
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
public func logProbabilities(
  _ states: borrowing Matrix, head output: OutputHead, targets: [Int32], on device: Device
) -> [Double] {
  let head = output.weight
  let tokens = states.rows
  precondition(head.columns == states.columns && targets.count == tokens)
  precondition(targets.allSatisfy { $0 >= 0 && Int($0) < head.rows })
  guard tokens > 0 else { return [] }
  let panels = parts(of: head.rows, size: panelRows)
  // By panel and token.
  var largest = Buffer<Float>(count: panels.count * tokens)
  var sums = Buffer<Double>(count: panels.count * tokens)
  var chosen = Buffer<Float>(count: tokens)
  do {
    let states = states.elements.span
    let (largest, sums) = (largest.mutableRowSpans(columns: tokens), sums.mutableRowSpans(columns: tokens))
    let chosen = chosen.mutableRowSpans(columns: 1)
    device.forEach(
      panels.count,
      scratch: {
        HeadScratch(tokens: tokens, rows: min(panelRows, head.rows), columns: head.columns, device)
      },
      { scratch, index in
        let panel = panels[index]
        defer { if !head.keepsPages { head.release(panel) } }
        scratch.multiply(states, tokens: tokens, head, panel)
        for token in 0..<tokens {
          var row = scratch.logits.part(token * panel.count..<(token + 1) * panel.count)
          output.finish(&row, panel)
          var (top, sum): (Float, Double) = (0, 0)
          espalier_log_sum_exp(row.span, &top, &sum)
          var tops = largest[index]
          var totals = sums[index]
          (tops[token], totals[token]) = (top, sum)
          if panel.contains(Int(targets[token])) {
            var own = chosen[token]
            own[0] = row[Int(targets[token]) - panel.lowerBound]
          }
        }
      })
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

/// Bytes that ``logProbabilities(_:head:targets:on:)`` takes for states of `columns` columns.
public func headWorkingSet(tokens: Int, columns: Int, threads: Int) -> Int {
  threads * panelRows * (columns + tokens) * 4
}

private struct HeadScratch: ~Copyable {
  var weights: Matrix
  var logits: Buffer<Float>

  init(tokens: Int, rows: Int, columns: Int, _ device: Device) {
    weights = device.matrix(unfilled: rows, columns: columns)
    logits = Buffer(unfilled: tokens * rows, in: device.scratch)
  }

  /// Puts the logits of some rows of the head into `logits`, `tokens x panel.count`.
  mutating func multiply(_ x: Span<Float>, tokens: Int, _ head: LinearWeight, _ panel: Range<Int>) {
    Self.multiply(x, tokens: tokens, head, panel, &weights, into: &logits)
  }

  private static func multiply(
    _ x: Span<Float>, tokens: Int, _ head: LinearWeight, _ panel: Range<Int>, _ weights: inout Matrix,
    into logits: inout Buffer<Float>
  ) {
    var rows = weights.elements.part(0..<panel.count * head.columns)
    head.load(panel, into: &rows)
    var products = logits.part(0..<tokens * panel.count)
    EspalierKernels.multiply(
      rows: tokens, columns: panel.count, inner: head.columns, Operand(x, stride: head.columns),
      Operand(rows.span, stride: head.columns, isTransposed: true), into: &products, stride: panel.count)
  }
}
