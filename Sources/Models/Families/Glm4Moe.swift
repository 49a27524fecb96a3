import EspalierCore

extension Family {
  /// GLM-4.5: dense blocks first, then experts chosen as in DeepSeek-V3; half of each head is rotated.
  static let glm4Moe = Family("glm4_moe") { configuration, names in
    let configuration = configuration.filled([
      ("first_k_dense_replace", 1), ("norm_topk_prob", true), ("n_shared_experts", 1),
    ])
    var decoder = try Decoder(configuration, names, epsilon: 1e-5)
    decoder.outputBias = false
    let rotary = try Rotary(configuration, headSize: decoder.headSize, share: 0.5)
    let normsHeads = try configuration.flag("use_qk_norm", default: false)
    let dense = try configuration.number("first_k_dense_replace")
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        if normsHeads {
          block.withAttention {
            decoder.normHeads(&$0, decoder.prefix(index) + "self_attn.", "q_norm", "k_norm")
          }
        }
        if Double(index) >= dense {
          block.feedForward = .experts(
            try decoder.expertsBesideShared(
              block.prefix + "mlp.", try decoder.sigmoidRouter(block.prefix + "mlp.gate.")))
        }
        return block
      })
  }
}
