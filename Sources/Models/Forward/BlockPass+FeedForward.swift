import EspalierCore
import EspalierKernels
import Glibc

extension BlockPass {
  /// hidden += mlp(norm(hidden)), a few sequences at a time: the inner layer is wide.
  ///
  /// - Parameter before: the MLP's input, if it is not `hidden`.
  func transform(
    _ mlp: Blueprint.MLP, _ hidden: inout Matrix, _ before: HeldMatrix?, _ observe: Observer
  ) throws {
    let norm = block.sharesInput ? block.mixerNorm : block.feedForwardNorm
    for sequences in parts(of: hidden.rows / length, size: Batching.innerSequences(length: length)) {
      let first = sequences.lowerBound * length
      let rows = TokenRows(windows: sequences, length: length)
      var inner: Matrix
      do {
        var normed =
          if let before { try prepared(before.matrix, from: first, rows: rows.count, norm) } else {
            try prepared(hidden, from: first, rows: rows.count, norm)
          }
        let input = weights.packed(&normed)
        if !block.sharesInput {
          try observe("mlp", normed, rows)
          guard scope.continues(after: "mlp") else { continue }
        }
        inner = try activated(mlp, input)
      }
      let input = weights.packed(&inner)
      try observe("down", inner, rows)
      guard scope.continues(after: "down") else { continue }
      try deliver(mlp.down, input, norm: block.feedForwardOutputNorm, into: &hidden, at: first)
    }
  }

  /// The input of the second layer of an MLP, `tokens x inner`.
  func activated(_ mlp: Blueprint.MLP, _ input: borrowing PackedMatrix) throws -> Matrix {
    switch mlp.input {
    case .plain(let linear):
      var inner = try weights.applied(linear, input)
      activate(&inner, try activation(mlp.activation), on: device)
      return inner
    case .gated(let gateLayer, let upLayer):
      var gate = try weights.applied(gateLayer, input)
      let up = try weights.applied(upLayer, input)
      try join(up, mlp.activation, into: &gate)
      return gate
    case .fused(let linear, let isInterleaved):
      let both = try weights.applied(linear, input)
      let inner = mlp.innerSize
      var gate = device.matrix(unfilled: both.rows, columns: inner)
      var up = device.matrix(unfilled: both.rows, columns: inner)
      if isInterleaved {
        copyColumns(both, (0..<inner).map { (2 * $0, $0, 1) }, into: &gate, on: device)
        copyColumns(both, (0..<inner).map { (2 * $0 + 1, $0, 1) }, into: &up, on: device)
      } else {
        copyColumns(both, [(0, 0, inner)], into: &gate, on: device)
        copyColumns(both, [(inner, 0, inner)], into: &up, on: device)
      }
      try join(up, mlp.activation, into: &gate)
      return gate
    }
  }

  private func join(_ up: borrowing Matrix, _ gate: Blueprint.MLP.Gate, into inner: inout Matrix) throws {
    if case .clamped(let limit, let alpha) = gate {
      clampedSwiGLU(up, limit: limit, alpha: alpha, into: &inner, on: device)
    } else {
      gatedProduct(up, try activation(gate), into: &inner, on: device)
    }
  }

  private func activation(_ gate: Blueprint.MLP.Gate) throws -> Activation {
    switch gate {
    case .activation(let activation): return activation
    case .clamped:
      throw EspalierError.internalFault(
        "the clamped product needs a layer for the gate and one for the rest.")
    case .xielu(let alphaP, let alphaN, let beta, let epsilon):
      let beta = try beta.map { try weights.floats($0)[0, 0] } ?? 0.5
      let epsilon = try epsilon.map { try weights.floats($0)[0, 0] } ?? -1e-6
      func softplus(_ x: Float) -> Float { x > 20 ? x : log1pf(expf(x)) }
      return .xielu(
        alphaP: softplus(try weights.floats(alphaP)[0, 0]),
        alphaN: beta + softplus(try weights.floats(alphaN)[0, 0]), beta: beta, epsilon: epsilon)
    }
  }
}
