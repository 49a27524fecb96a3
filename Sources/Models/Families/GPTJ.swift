import EspalierCore

extension Family {
  /// GPT-J: attention and MLP in parallel after one norm; the first values of each head are rotated in adjacent pairs.
  static let gptJ = Family("gptj") { configuration, names in
    var decoder = try Decoder(
      configuration, names, epsilonKey: "layer_norm_epsilon", epsilon: 1e-5,
      activationKey: "activation_function", activation: "gelu_new", inner: .own("n_inner"))
    decoder.root = names.prefix(["transformer.", ""], of: "wte.weight")
    decoder.blocks = "h."
    let rotated = try configuration.optionalSize("rotary_dim") ?? decoder.headSize
    var rotary = try Rotary(dimensions: rotated, of: decoder.headSize)
    rotary.isInterleaved = true
    var blueprint = try decoder.blueprint(
      embedding: "wte", norm: decoder.layerNorm(decoder.root + "ln_f"),
      blocks: (0..<decoder.count).map { index in
        let prefix = decoder.prefix(index)
        return decoder.block(
          index, attention: decoder.attention(prefix + "attn.", rotary: rotary, output: "out_proj"),
          mlp: decoder.plainMLP(prefix + "mlp.fc_in", prefix + "mlp.fc_out", bias: true),
          norms: ("ln_1", nil),
          isParallel: true)
      })
    blueprint.ending.headBias = .init("lm_head.bias", [decoder.vocabulary])
    return blueprint
  }
}
