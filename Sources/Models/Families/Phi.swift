import EspalierCore

extension Family {
  /// Phi-1, 1.5 and 2: attention and MLP in parallel after one norm, biases everywhere.
  static let phi = Family("phi") { configuration, names in
    var decoder = try Decoder(
      configuration, names, epsilonKey: "layer_norm_eps", epsilon: 1e-5, activation: "gelu_new")
    decoder.attentionBias = true
    decoder.outputBias = true
    let rotary = try Rotary(configuration, headSize: decoder.headSize, share: 0.5)
    let normsHeads = try configuration.flag("qk_layernorm", default: false)
    var blueprint = try decoder.blueprint(
      norm: decoder.layerNorm("model.final_layernorm"),
      blocks: (0..<decoder.count).map { index in
        let prefix = decoder.prefix(index)
        var attention = decoder.attention(prefix + "self_attn.", rotary: rotary, output: "dense")
        if normsHeads {
          attention.queryNorm = decoder.layerNorm(
            prefix + "self_attn.q_layernorm", width: decoder.headSize)
          attention.keyNorm = decoder.layerNorm(prefix + "self_attn.k_layernorm", width: decoder.headSize)
        }
        return decoder.block(
          index, attention: attention,
          mlp: decoder.plainMLP(prefix + "mlp.fc1", prefix + "mlp.fc2", bias: true),
          norms: ("input_layernorm", nil), isParallel: true)
      })
    blueprint.ending.headBias = .init("lm_head.bias", [decoder.vocabulary])
    return blueprint
  }
}
