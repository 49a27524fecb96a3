extension Family {
  /// Nemotron: layer norms that store the difference from 1, an MLP without a gate, squared ReLU.
  static let nemotron = Family("nemotron") { configuration, names in
    let decoder = try Decoder(
      configuration, names, epsilonKey: "norm_eps", epsilon: 1e-5, activation: "relu2")
    let rotary = try Rotary(configuration, headSize: decoder.headSize, share: 0.5)
    return try decoder.blueprint(
      norm: decoder.layerNorm("model.norm", offset: 1),
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        let prefix = block.prefix
        block.mixerNorm = decoder.layerNorm(prefix + "input_layernorm", offset: 1)
        block.feedForwardNorm = decoder.layerNorm(prefix + "post_attention_layernorm", offset: 1)
        block.feedForward = .dense(
          decoder.plainMLP(prefix + "mlp.up_proj", prefix + "mlp.down_proj", bias: decoder.mlpBias))
        return block
      })
  }
}
