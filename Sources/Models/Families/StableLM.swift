import EspalierCore

extension Family {
  /// StableLM: Llama with layer norms, a quarter of each head rotated; some with norms of heads or parallel blocks.
  static let stableLM = Family("stablelm") { configuration, names in
    var decoder = try Decoder(configuration, names, epsilonKey: "layer_norm_eps", epsilon: 1e-5)
    decoder.attentionBias = try configuration.flag("use_qkv_bias", default: false)
    decoder.outputBias = false
    let rotary = try Rotary(configuration, headSize: decoder.headSize, share: 0.25)
    try decoder.requireCountableHeads()
    let isParallel = try configuration.flag("use_parallel_residual", default: false)
    let normsHeads = try configuration.flag("qk_layernorm", default: false)
    func headNorm(_ name: String, heads: Int) -> Blueprint.Norm {
      var norm = decoder.layerNorm(name, width: decoder.headSize, bias: false)
      norm.scale = (0..<heads).map { .init("\(name).norms.\($0).weight", [decoder.headSize]) }
      return norm
    }
    return try decoder.blueprint(
      norm: decoder.layerNorm("model.norm"),
      blocks: (0..<decoder.count).map { index in
        let prefix = decoder.prefix(index)
        var attention = decoder.attention(prefix + "self_attn.", rotary: rotary)
        if normsHeads {
          attention.queryNorm = headNorm(prefix + "self_attn.q_layernorm", heads: decoder.heads)
          attention.keyNorm = headNorm(prefix + "self_attn.k_layernorm", heads: decoder.keyHeads)
        }
        return decoder.block(
          index, attention: attention, mlp: decoder.gatedMLP(prefix + "mlp."),
          norms: ("input_layernorm", isParallel ? nil : "post_attention_layernorm"), isParallel: isParallel)
      })
  }
}
