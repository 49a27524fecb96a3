import EspalierKernels

extension Family {
  /// Phi-3 and 4: one layer for queries, keys and values, one for gate and up.
  static let phi3 = Family("phi3") { configuration, names in
    let decoder = try Decoder(configuration, names, epsilon: 1e-5)
    let rotary = try Rotary(configuration, headSize: decoder.headSize, share: 1)
    let window = try configuration.optionalSize("sliding_window")
    let width = (decoder.heads + 2 * decoder.keyHeads) * decoder.headSize
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        block.withAttention {
          $0.projections = .fused(
            decoder.linear(decoder.prefix(index) + "self_attn.qkv_proj", width, decoder.hidden), .blocks)
          $0.shape.mask = window.map { .window($0) } ?? .causal
        }
        block.feedForward = .dense(decoder.fusedMLP(block.prefix + "mlp."))
        return block
      })
  }
}

extension Decoder {
  /// An MLP with `gate_up_proj`, the gate's rows first, and `down_proj`.
  func fusedMLP(_ prefix: String) -> Blueprint.MLP {
    Blueprint.MLP(
      input: .fused(linear(prefix + "gate_up_proj", 2 * inner, hidden, bias: mlpBias), isInterleaved: false),
      activation: .activation(activation), down: linear(prefix + "down_proj", hidden, inner, bias: mlpBias))
  }
}
