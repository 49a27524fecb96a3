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

  fileprivate func apply(_ x: inout MutableSpan<Float>) {
    switch self {
    case .silu: espalier_silu(&x)
    case .gelu: espalier_gelu(&x)
    case .geluTanh: espalier_gelu_tanh(&x)
    case .geluQuick: espalier_gelu_quick(&x)
    case .relu: espalier_relu(&x)
    case .reluSquared: espalier_relu_squared(&x)
    case .tanh: espalier_tanh(&x)
    case .sigmoid: espalier_sigmoid(&x)
    case .xielu(let alphaP, let alphaN, let beta, let epsilon):
      espalier_xielu(alphaP, alphaN, beta, epsilon, &x)
    }
  }
}

/// Applies the activation to every element.
public func activate(_ states: inout Matrix, _ activation: Activation, on device: Device) {
  let rows = states.mutableRowSpans
  device.forEachBlock(ofRows: rows.rows) {
    var block = rows[$0]
    activation.apply(&block)
  }
}

/// `gate = activation(gate) * up`, elementwise.
public func gatedProduct(
  _ up: borrowing Matrix, _ activation: Activation, into gate: inout Matrix, on device: Device
) {
  guard activation == .silu else {
    activate(&gate, activation, on: device)
    return multiply(up, into: &gate, on: device)
  }
  precondition(up.rows == gate.rows && up.columns == gate.columns)
  let up = up.rowSpans
  let gate = gate.mutableRowSpans
  device.forEachBlock(ofRows: gate.rows) {
    var block = gate[$0]
    espalier_silu_multiply(up[$0], &block)
  }
}

/// `gate = (up + 1) gate sigmoid(alpha gate)`, both clamped by `limit`: the gated product of gpt-oss.
public func clampedSwiGLU(
  _ up: borrowing Matrix, limit: Float, alpha: Float, into gate: inout Matrix, on device: Device
) {
  precondition(up.rows == gate.rows && up.columns == gate.columns)
  let up = up.rowSpans
  let gate = gate.mutableRowSpans
  device.forEachBlock(ofRows: gate.rows) {
    var block = gate[$0]
    espalier_clamped_swiglu(limit, alpha, up[$0], &block)
  }
}

/// `y = x * y`, elementwise.
public func multiply(_ x: borrowing Matrix, into y: inout Matrix, on device: Device) {
  precondition(x.rows == y.rows && x.columns == y.columns)
  let x = x.rowSpans
  let y = y.mutableRowSpans
  device.forEachBlock(ofRows: y.rows) {
    var block = y[$0]
    espalier_multiply(x[$0], &block)
  }
}

/// Multiplies every element by a number.
public func scale(_ states: inout Matrix, by factor: Float, on device: Device) {
  guard factor != 1 else { return }
  let rows = states.mutableRowSpans
  device.forEachBlock(ofRows: rows.rows) {
    var block = rows[$0]
    espalier_scale(factor, &block)
  }
}

/// Limits every element to `-limit ... limit`.
public func clamp(_ states: inout Matrix, to limit: Float, on device: Device) {
  let rows = states.mutableRowSpans
  device.forEachBlock(ofRows: rows.rows) {
    var block = rows[$0]
    for index in block.indices { block[index] = max(-limit, min(limit, block[index])) }
  }
}

/// `y += factor * x` from the row `first` of y on.
public func add(
  _ x: borrowing Matrix, times factor: Float = 1, into y: inout Matrix, at first: Int = 0,
  on device: Device
) {
  precondition(y.columns == x.columns && first >= 0 && first + x.rows <= y.rows)
  let x = x.rowSpans
  let y = y.mutableRowSpans
  device.forEachBlock(ofRows: x.rows) {
    var block = y[first + $0.lowerBound..<first + $0.upperBound]
    espalier_add_weighted(factor, x[$0], &block)
  }
}
