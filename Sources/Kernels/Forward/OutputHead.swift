import CKernels
import EspalierCore

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

  /// Whether logits are more than products.
  var isAdjusted: Bool { !bias.isEmpty || softCap > 0 }

  /// Completes the logits of some tokens of the vocabulary for one state.
  func finish(_ logits: inout MutableSpan<Float>, _ tokens: Range<Int>) {
    if !bias.isEmpty { espalier_add(bias.span.extracting(tokens), &logits) }
    if softCap > 0 {
      espalier_scale(1 / softCap, &logits)
      espalier_tanh(&logits)
      espalier_scale(softCap, &logits)
    }
  }
}
