import EspalierCore

extension Family {
  /// Apertus: a norm for each head, an MLP without a gate, xIELU.
  static let apertus = Family("apertus") { given, names in
    // The activation has parameters of its own.
    let configuration = given.filled([("rms_norm_eps", 1e-5)])
    guard try configuration.text("hidden_act", default: "xielu") == "xielu" else {
      throw configuration.unsupported(
        "hidden_act", try configuration.text("hidden_act", default: ""), supported: "xielu")
    }
    let decoder = try Decoder(configuration.without("hidden_act"), names)
    let rotary = try Rotary(configuration, headSize: decoder.headSize, usualTheta: 12_000_000)
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        let prefix = block.prefix
        block.mixerNorm = decoder.rms(prefix + "attention_layernorm")
        block.feedForwardNorm = decoder.rms(prefix + "feedforward_layernorm")
        block.withAttention { decoder.normHeads(&$0, prefix + "self_attn.", "q_norm", "k_norm") }
        var mlp = decoder.plainMLP(
          prefix + "mlp.up_proj", prefix + "mlp.down_proj", bias: decoder.mlpBias)
        let name = prefix + "mlp.act_fn."
        mlp.activation = .xielu(
          alphaP: .init(name + "alpha_p", [1]), alphaN: .init(name + "alpha_n", [1]),
          beta: names.has(name + "beta") ? .init(name + "beta", names.shape(name + "beta") ?? []) : nil,
          epsilon: names.has(name + "eps") ? .init(name + "eps", names.shape(name + "eps") ?? []) : nil)
        block.feedForward = .dense(mlp)
        return block
      })
  }
}
