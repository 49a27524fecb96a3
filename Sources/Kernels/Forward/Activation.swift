import CKernels
import EspalierCore

/// What an MLP applies between its two layers.
public enum Activation: Sendable, Hashable {
  case silu
  /// GELU with the error function.
  case gelu
  /// GELU with tanh.
  case geluTanh
  /// `x sigmoid(1.702 x)`.
  case geluQuick
  case relu
  case reluSquared
  case tanh
  case sigmoid
  /// xIELU with its two learned slopes, already positive (arXiv 2411.13010).
  case xielu(alphaP: Float, alphaN: Float, beta: Float, epsilon: Float)

  /// The activation that a `config.json` names; nil if it is not known.
  public init?(name: String) {
    switch name {
    case "silu", "swish": self = .silu
    case "gelu": self = .gelu
    case "gelu_new", "gelu_pytorch_tanh", "gelu_tanh", "gelu_fast", "gelu_accurate": self = .geluTanh
    case "quick_gelu": self = .geluQuick
    case "relu": self = .relu
    case "relu2": self = .reluSquared
    case "tanh": self = .tanh
    case "sigmoid": self = .sigmoid
    default: return nil
    }
  }

  fileprivate func apply(_ count: Int, _ x: UnsafeMutablePointer<Float>) {
    switch self {
    case .silu: espalier_silu(count, x)
    case .gelu: espalier_gelu(count, x)
    case .geluTanh: espalier_gelu_tanh(count, x)
    case .geluQuick: espalier_gelu_quick(count, x)
    case .relu: espalier_relu(count, x)
    case .reluSquared: espalier_relu_squared(count, x)
    case .tanh: espalier_tanh(count, x)
    case .sigmoid: espalier_sigmoid(count, x)
    case .xielu(let alphaP, let alphaN, let beta, let epsilon):
      espalier_xielu(count, alphaP, alphaN, beta, epsilon, x)
    }
  }
}

/// Applies the activation to every element.
public func activate(_ states: inout Matrix, _ activation: Activation) {
  let columns = states.columns
  forEachBlock(of: &states) { rows, x in activation.apply(rows.count * columns, x) }
}

/// `gate = activation(gate) * up`, elementwise.
public func gatedProduct(_ up: borrowing Matrix, _ activation: Activation, into gate: inout Matrix) {
  if activation == .silu { return siluMultiply(up, into: &gate) }
  activate(&gate, activation)
  multiply(up, into: &gate)
}

/// `gate = (up + 1) gate sigmoid(alpha gate)`, both clamped by `limit`: the gated product of gpt-oss.
public func clampedSwiGLU(_ up: borrowing Matrix, limit: Float, alpha: Float, into gate: inout Matrix) {
  let columns = gate.columns
  precondition(up.rows == gate.rows && up.columns == columns)
  up.elements.withUnsafe { up in
    nonisolated(unsafe) let u = up.baseAddress!
    forEachBlock(of: &gate) { rows, x in
      espalier_clamped_swiglu(rows.count * columns, limit, alpha, u + rows.lowerBound * columns, x)
    }
  }
}

/// `y = x * y`, elementwise.
public func multiply(_ x: borrowing Matrix, into y: inout Matrix) {
  let columns = y.columns
  precondition(x.rows == y.rows && x.columns == columns)
  x.elements.withUnsafe { x in
    nonisolated(unsafe) let x = x.baseAddress!
    forEachBlock(of: &y) { rows, y in
      espalier_multiply(rows.count * columns, x + rows.lowerBound * columns, y)
    }
  }
}

/// Multiplies every element by a number.
public func scale(_ states: inout Matrix, by factor: Float) {
  guard factor != 1 else { return }
  let columns = states.columns
  forEachBlock(of: &states) { rows, x in espalier_scale(rows.count * columns, factor, x) }
}

/// Limits every element to `-limit ... limit`.
public func clamp(_ states: inout Matrix, to limit: Float) {
  let columns = states.columns
  forEachBlock(of: &states) { rows, x in
    for index in 0..<rows.count * columns { x[index] = max(-limit, min(limit, x[index])) }
  }
}

/// `y += factor * x` from the row `first` of y on.
public func add(_ x: borrowing Matrix, times factor: Float = 1, into y: inout Matrix, at first: Int = 0) {
  let (count, columns) = (x.rows, x.columns)
  precondition(y.columns == columns && first >= 0 && first + count <= y.rows)
  x.elements.withUnsafe { x in
    y.elements.withUnsafeMutable { y in
      nonisolated(unsafe) let (x, y) = (x.baseAddress!, y.baseAddress! + first * columns)
      let blocks = parts(of: count, size: 64)
      Threads.forEach(blocks.count) { index in
        let start = blocks[index].lowerBound * columns
        espalier_add_weighted(blocks[index].count * columns, factor, x + start, y + start)
      }
    }
  }
}

/// Calls `body` with 64 rows at a time and where they start; threads share them.
func forEachBlock(
  of states: inout Matrix,
  _ body: @Sendable (_ rows: Range<Int>, _ start: UnsafeMutablePointer<Float>) -> Void
) {
  let (count, columns) = (states.rows, states.columns)
  states.elements.withUnsafeMutable { states in
    nonisolated(unsafe) let x = states.baseAddress!
    let blocks = parts(of: count, size: 64)
    Threads.forEach(blocks.count) { index in
      body(blocks[index], x + blocks[index].lowerBound * columns)
    }
  }
}
