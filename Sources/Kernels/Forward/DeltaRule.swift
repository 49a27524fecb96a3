import CKernels
import EspalierCore

/// The heads of a gated delta rule (arXiv 2412.06464): value head h reads key head `h / (valueHeads / keyHeads)`.
public struct DeltaRuleShape: Sendable {
  public let keyHeads: Int
  public let valueHeads: Int
  public let keySize: Int
  public let valueSize: Int

  public init(keyHeads: Int, valueHeads: Int, keySize: Int, valueSize: Int) {
    self.keyHeads = keyHeads
    self.valueHeads = valueHeads
    self.keySize = keySize
    self.valueSize = valueSize
  }

  public var keyWidth: Int { keyHeads * keySize }
  public var valueWidth: Int { valueHeads * valueSize }
  /// Values that a head holds: its state, and what it computes with.
  public var memory: Int { (keySize + 1) * valueSize + 2 * keySize }
}

/// Lets a state for each head learn keys and values token by token, and reads it with queries.
///
/// - Parameters:
///   - states: queries, keys and values side by side, `tokens x (2 * keyWidth + valueWidth)`; sequences of `length` tokens follow each
///     other, each starting with an empty state.
///   - decay: what the state is multiplied with before a token, `tokens x valueHeads`.
///   - strength: how much of what a key does not give yet is learned, `tokens x valueHeads`.
///   - output: `tokens x valueWidth`.
public func deltaRule(
  _ states: borrowing Matrix, decay: borrowing Matrix, strength: borrowing Matrix, length: Int,
  _ shape: DeltaRuleShape, into output: inout Matrix, on device: Device
) {
  var memory = Matrix(rows: 0, columns: 0)
  deltaRule(
    states, decay: decay, strength: strength, length: length, shape, memory: &memory, into: &output,
    on: device)
}

/// The same with sequences that go on from earlier tokens, if there is a memory.
///
/// - Parameter memory: one row for each head of each sequence, `sequences * valueHeads x shape.memory`, zeros before the first token;
///   without rows every sequence begins with its first token.
public func deltaRule(
  _ states: borrowing Matrix, decay: borrowing Matrix, strength: borrowing Matrix, length: Int,
  _ shape: DeltaRuleShape, memory: inout Matrix, into output: inout Matrix, on device: Device
) {
  let (tokens, width, heads) = (states.rows, states.columns, shape.valueHeads)
  precondition(width == 2 * shape.keyWidth + shape.valueWidth && shape.valueHeads % shape.keyHeads == 0)
  precondition(output.rows == tokens && output.columns == shape.valueWidth)
  precondition(
    decay.rows == tokens && decay.columns == heads && strength.rows == tokens && strength.columns == heads)
  precondition(length > 0 && tokens % length == 0)
  let isContinued = memory.rows > 0
  precondition(
    !isContinued || memory.rows == tokens / length * heads && memory.columns == shape.memory)
  let (states, decay, strength) = (states.rowSpans, decay.rowSpans, strength.rowSpans)
  let (output, memory) = (output.mutableRowSpans, memory.mutableRowSpans)
  device.forEach(
    tokens / length * heads, scratch: { Buffer<Float>(unfilled: shape.memory) },
    { scratch, index in
      let sequence = index / heads * length..<(index / heads + 1) * length
      let head = index % heads
      let key = head / (heads / shape.keyHeads) * shape.keySize
      do {
        var scratch = scratch.mutableSpan
        if isContinued {
          let kept = memory[index]
          scratch.copy(kept.span)
        }
        var output = output[sequence]
        espalier_delta_rule(
          length, shape.keySize, shape.valueSize, width, states[sequence], key, shape.keyWidth + key,
          2 * shape.keyWidth + head * shape.valueSize, heads, head, decay[sequence], strength[sequence],
          &scratch, isContinued ? 1 : 0, shape.valueWidth, head * shape.valueSize, &output)
      }
      guard isContinued else { return }
      var kept = memory[index]
      kept.copy(scratch.span)
    })
}

/// A causal convolution of every channel over the tokens of its sequence.
///
/// - Parameters:
///   - states: `tokens x channels`; sequences of `length` tokens follow each other.
///   - weights: `channels x width`, one row after the other; the last tap is the token itself.
///   - bias: one for each channel, or none.
public func causalConvolution(
  _ states: borrowing Matrix, weights: borrowing Matrix, bias: [Float], length: Int, on device: Device
) -> Matrix {
  let (tokens, channels) = (states.rows, states.columns)
  let width = weights.columns * weights.rows / channels
  precondition(bias.isEmpty || bias.count == channels)
  precondition(width * channels == weights.columns * weights.rows && length > 0 && tokens % length == 0)
  var taps = Matrix(rows: width, columns: channels)
  for channel in 0..<channels {
    for tap in 0..<width {
      let place = channel * width + tap
      taps[tap, channel] = weights[place / weights.columns, place % weights.columns]
    }
  }
  let shift = bias.isEmpty ? [Float](repeating: 0, count: channels) : bias
  var output = device.matrix(unfilled: tokens, columns: channels)
  let (states, weights, bias) = (states.rowSpans, taps.elements.span, shift.span)
  do {
    let output = output.mutableRowSpans
    device.forEach(tokens / length) { index in
      let sequence = index * length..<(index + 1) * length
      var result = output[sequence]
      espalier_causal_convolution(length, width, weights, bias, states[sequence], &result)
    }
  }
  return output
}
