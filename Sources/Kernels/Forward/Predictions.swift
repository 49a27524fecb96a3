import CKernels
import EspalierCore
import Glibc

/// Rows of the head whose sums are kept together, in whole blocks of the product.
private let partRows = 4 * linearRowsAtATime

/// What a model expects after each of some states.
public struct Predictions: Sendable {
  /// The natural log-probability of the token that follows, under a softmax over the whole vocabulary; one for each state.
  public let logProbabilities: [Double]
  /// The token with the largest logit, the first one of several; one for each state.
  public let choices: [Int32]
}

/// What a model expects.
///
/// The logits are never held together: parts of the vocabulary give each state's largest logit and its sum of exponentials, which are
/// merged in order.
///
/// - Parameters:
///   - states: `tokens x columns`, after the last norm.
///   - head: `vocabulary x columns`.
///   - targets: the token that follows each state, below the size of the vocabulary.
public func predictions(
  _ states: borrowing PackedMatrix, _ head: OutputHead, targets: [Int32], on device: Device
) -> Predictions {
  compare(states, head, states, nil, targets, on: device).own
}

/// What two models of one vocabulary expect, and how far apart they are.
///
/// - Returns: beside the predictions of both, the Kullback-Leibler divergence from the reference to the model in nats, for each state:
///   the sum over the vocabulary of `p ln(p / q)`, p being the reference's probability of a token and q the model's.
public func comparedPredictions(
  _ states: borrowing PackedMatrix, _ head: OutputHead, reference: borrowing PackedMatrix,
  _ referenceHead: OutputHead, targets: [Int32], on device: Device
) -> (own: Predictions, reference: Predictions, divergences: [Double]) {
  precondition(head.weight.rows == referenceHead.weight.rows)
  return compare(states, head, reference, referenceHead, targets, on: device)
}

private func compare(
  _ states: borrowing PackedMatrix, _ head: OutputHead, _ others: borrowing PackedMatrix,
  _ otherHead: OutputHead?, _ targets: [Int32], on device: Device
) -> (own: Predictions, reference: Predictions, divergences: [Double]) {
  let tokens = states.rows
  let vocabulary = head.weight.rows
  precondition(tokens == targets.count && states.columns == head.weight.columns)
  precondition(others.rows == tokens && others.columns == (otherHead ?? head).weight.columns)
  precondition(targets.allSatisfy { $0 >= 0 && Int($0) < vocabulary })
  guard tokens > 0 else { return (.none, .none, []) }
  let parts = EspalierCore.parts(of: vocabulary, size: partRows)
  // By part and token.
  var sums = Buffer<SoftmaxSum>(count: parts.count * tokens)
  var otherSums = Buffer<SoftmaxSum>(count: otherHead == nil ? 0 : parts.count * tokens)
  // Logits of the targets: of the model, then of the reference.
  var chosen = Buffer<Float>(count: 2 * tokens)
  do {
    let (panels, otherPanels) = (states.panels, others.panels)
    let (precision, otherPrecision) = (states.precision, others.precision)
    let (steps, otherSteps) = (states.steps, others.steps)
    let most = min(rowsAtATime(steps), rowsAtATime(otherSteps))
    let chunks = EspalierCore.parts(of: tokens, size: tokensAtATime)
    let sums = sums.mutableRowSpans(columns: tokens)
    let otherSums = otherSums.mutableRowSpans(columns: tokens)
    let chosen = chosen.mutableRowSpans(columns: tokens)
    device.forEach(
      parts.count,
      scratch: {
        HeadPair(
          own: HeadScratch(rows: most, steps: steps, tokens: chunks[0].count, device),
          other: HeadScratch(
            rows: otherHead == nil ? 0 : most, steps: otherSteps, tokens: chunks[0].count, device))
      },
      { scratch, index in
        var own = sums[index]
        for rows in EspalierCore.parts(of: parts[index].count, size: most) {
          let rows = parts[index].lowerBound + rows.lowerBound..<parts[index].lowerBound + rows.upperBound
          scratch.own.load(head, rows, precision)
          if let otherHead { scratch.other.load(otherHead, rows, otherPrecision) }
          for chunk in chunks {
            scratch.own.multiply(panels, chunk, head, rows, precision)
            if let otherHead { scratch.other.multiply(otherPanels, chunk, otherHead, rows, otherPrecision) }
            for token in chunk {
              let line = scratch.own.line(token - chunk.lowerBound, rows.count)
              own[token].add(line, from: rows.lowerBound)
              let target = Int(targets[token])
              var targetLogits = chosen[0]
              if rows.contains(target) { targetLogits[token] = line[target - rows.lowerBound] }
              guard otherHead != nil else { continue }
              let otherLine = scratch.other.line(token - chunk.lowerBound, rows.count)
              var other = otherSums[index]
              other[token].add(otherLine, from: rows.lowerBound, against: line)
              var otherLogits = chosen[1]
              if rows.contains(target) { otherLogits[token] = otherLine[target - rows.lowerBound] }
            }
          }
        }
        head.release(parts[index])
        otherHead?.release(parts[index])
      })
  }
  func merged(_ sums: borrowing Buffer<SoftmaxSum>) -> [SoftmaxSum] {
    (0..<tokens).map { token in
      var sum = SoftmaxSum()
      for part in parts.indices { sum.add(sums[part * tokens + token]) }
      return sum
    }
  }
  let own = merged(sums)
  let prediction = Predictions(
    logProbabilities: own.enumerated().map { Double(chosen[$0]) - $1.logarithm }, choices: own.map(\.choice))
  guard otherHead != nil else { return (prediction, .none, []) }
  let other = merged(otherSums)
  let reference = Predictions(
    logProbabilities: other.enumerated().map { Double(chosen[tokens + $0]) - $1.logarithm },
    choices: other.map(\.choice))
  // Rounding may leave a little less than nothing.
  let divergences = zip(own, other).map { max(0, $1.excess / $1.sum - $1.logarithm + $0.logarithm) }
  return (prediction, reference, divergences)
}

extension Predictions {
  fileprivate static let none = Predictions(logProbabilities: [], choices: [])
}

extension OutputHead {
  fileprivate func release(_ rows: Range<Int>) {
    if !weight.keepsPages { weight.release(rows) }
  }
}

/// The softmax of some logits of one state, as far as it is known.
private struct SoftmaxSum: BitwiseCopyable, Sendable {
  /// The largest logit, and its token.
  var top: Float = 0
  var choice: Int32 = 0
  /// Of exp(logit - top); 0 if there are no logits yet.
  var sum = 0.0
  /// Of exp(logit - top) (logit - the other model's logit).
  var excess = 0.0

  /// ln of the sum of exp(logit).
  var logarithm: Double { Double(top) + log(sum) }

  /// Adds the logits of consecutive tokens.
  ///
  /// - Parameter first: the first of the tokens.
  mutating func add(_ logits: Span<Float>, from first: Int) {
    var next = SoftmaxSum()
    espalier_log_sum_exp(logits, &next.top, &next.sum)
    next.place(in: logits, from: first)
    add(next)
  }

  /// - Parameter others: the same logits of the other model.
  mutating func add(_ logits: Span<Float>, from first: Int, against others: Span<Float>) {
    var next = SoftmaxSum()
    espalier_log_sum_exp(logits, &next.top, &next.sum)
    next.excess = espalier_weighted_excess(logits, next.top, others)
    next.place(in: logits, from: first)
    add(next)
  }

  private mutating func place(in logits: Span<Float>, from first: Int) {
    choice = Int32(first + min(espalier_index_of(logits, top), logits.count - 1))
  }

  /// Adds the sums of tokens that follow.
  mutating func add(_ next: SoftmaxSum) {
    guard sum > 0 else {
      self = next
      return
    }
    if next.top > top {
      let factor = exp(Double(top - next.top))
      (top, choice) = (next.top, next.choice)
      sum = sum * factor + next.sum
      excess = excess * factor + next.excess
    } else {
      let factor = exp(Double(next.top - top))
      sum += next.sum * factor
      excess += next.excess * factor
    }
  }
}

/// Bytes that predictions for so many states of `columns` columns take, beside the states.
///
/// - Parameter models: 2 if two are compared.
public func headWorkingSet(
  tokens: Int, columns: Int, vocabulary: Int, models: Int, _ precision: Precision, threads: Int
) -> Int {
  let parts = (vocabulary + partRows - 1) / partRows
  let logits = min(tokens, tokensAtATime) * rowsAtATime(precision.steps(columns)) * 4
  return models
    * (parts * tokens * MemoryLayout<SoftmaxSum>.stride + threads
      * (linearScratchBytes(columns: columns, precision) + logits))
}

private struct HeadPair: ~Copyable {
  var own: HeadScratch
  var other: HeadScratch
}

/// What one thread holds: some rows of the head, packed, and their logits for some states.
private struct HeadScratch: ~Copyable {
  private let steps: Int
  private var linear: LinearScratch
  private var logits: Buffer<Float>

  init(rows: Int, steps: Int, tokens: Int, _ device: Device) {
    self.steps = steps
    linear = LinearScratch(rows: rows, steps: steps, tokens: tokens, device)
    logits = Buffer(unfilled: tokens * rows, in: device.scratch)
  }

  mutating func load(_ head: OutputHead, _ rows: Range<Int>, _ precision: Precision) {
    linear.load(head.weight, rows, precision)
  }

  /// Computes the logits of the rows that were loaded.
  mutating func multiply(
    _ states: Span<UInt32>, _ tokens: Range<Int>, _ head: OutputHead, _ rows: Range<Int>,
    _ precision: Precision
  ) {
    let first = tokens.lowerBound / panelWidth * steps * panelWidth
    Self.multiply(
      states.extracting(first..<states.count), tokens.count, head, rows, precision, &linear, into: &logits)
  }

  private static func multiply(
    _ states: Span<UInt32>, _ tokens: Int, _ head: OutputHead, _ rows: Range<Int>, _ precision: Precision,
    _ linear: inout LinearScratch, into logits: inout Buffer<Float>
  ) {
    var results = logits.part(0..<tokens * rows.count)
    linear.multiply(
      states, rows: tokens, columns: rows.count, precision, adding: false, into: &results, from: 0,
      stride: rows.count)
    guard head.isAdjusted else { return }
    for token in 0..<tokens {
      var line = logits.part(token * rows.count..<(token + 1) * rows.count)
      head.finish(&line, rows)
    }
  }

  /// The logits of one state.
  @_lifetime(borrow self)
  func line(_ token: Int, _ count: Int) -> Span<Float> {
    logits.span.extracting(token * count..<(token + 1) * count)
  }
}
