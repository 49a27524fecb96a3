import EspalierCore

extension Family {
  /// GPT-NeoX and Pythia: one layer for each head's query, key and value; attention and MLP in parallel.
  static let gptNeoX = Family("gpt_neox") { configuration, names in
    var decoder = try Decoder(
      configuration, names, epsilonKey: "layer_norm_eps", epsilon: 1e-5, activation: "gelu")
    decoder.root = names.prefix(["gpt_neox.", "model."], of: "embed_in.weight")
    let bias = try configuration.flag("attention_bias", default: true)
    let isParallel = try configuration.flag("use_parallel_residual", default: true)
    let share = try configuration.number("rotary_pct", default: 0.25)
    let rotary = try Rotary(
      configuration, headSize: decoder.headSize,
      usualTheta: configuration.number("rotary_emb_base", default: 10000), share: share)
    let hidden = decoder.hidden
    return try decoder.blueprint(
      embedding: "embed_in", norm: decoder.layerNorm(decoder.root + "final_layer_norm"),
      head: names.has("lm_head.weight") ? "lm_head" : "embed_out",
      blocks: (0..<decoder.count).map { index in
        let prefix = decoder.prefix(index)
        return decoder.block(
          index,
          attention: .init(
            projections: .fused(
              decoder.linear(prefix + "attention.query_key_value", 3 * hidden, hidden, bias: bias), .groups),
            rotary: rotary, shape: decoder.shape(),
            output: decoder.linear(prefix + "attention.dense", hidden, hidden, bias: bias)),
          mlp: decoder.plainMLP(prefix + "mlp.dense_h_to_4h", prefix + "mlp.dense_4h_to_h", bias: true),
          norms: ("input_layernorm", "post_attention_layernorm"), isParallel: isParallel)
      })
  }
}
