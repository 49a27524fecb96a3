import EspalierCore
import EspalierKernels

extension Family {
  /// Qwen2-MoE: Qwen2 with experts and a gated shared expert.
  static let qwen2Moe = Family("qwen2_moe") { configuration, names in
    var decoder = try Decoder(configuration, names)
    decoder.attentionBias = try configuration.flag("qkv_bias", default: true)
    decoder.outputBias = false
    let slides = try configuration.flag("use_sliding_window", default: false)
    let window = try slides ? configuration.optionalSize("sliding_window") ?? 4096 : nil
    let last = try configuration.optionalNumber("max_window_layers") ?? 28
    let types = try configuration.layerTypes(decoder.count) {
      slides && $0 % 2 == 0 && Double($0) < last ? "sliding_attention" : "full_attention"
    }
    let shared = try configuration.size("shared_expert_intermediate_size")
    return try decoder.qwenMixture { block in
      let type = types[block.index]
      try block.withAttention { $0.shape.mask = try configuration.mask(type, window: window) }
      guard case .experts(var experts) = block.feedForward else { return }
      experts.shared = decoder.gatedMLP(block.prefix + "mlp.shared_expert.", inner: shared)
      experts.sharedGate = .init(block.prefix + "mlp.shared_expert_gate.weight", [1, decoder.hidden])
      block.feedForward = .experts(experts)
    }
  }

  /// Qwen3-MoE: Qwen3 with experts.
  static let qwen3Moe = Family("qwen3_moe") { configuration, names in
    let decoder = try Decoder(configuration, names)
    let slides = try configuration.flag("use_sliding_window", default: false)
    let window = try slides ? configuration.optionalSize("sliding_window") ?? 4096 : nil
    return try decoder.qwenMixture { block in
      let prefix = block.prefix + "self_attn."
      block.withAttention {
        $0.shape.mask = window.map { .window($0) } ?? .causal
        decoder.normHeads(&$0, prefix, "q_norm", "k_norm")
      }
    }
  }
}

extension Decoder {
  /// A model with experts in every block, or in those selected by `decoder_sparse_step` and `mlp_only_layers`.
  fileprivate func qwenMixture(_ change: (inout Blueprint.Block) throws -> Void) throws -> Blueprint {
    let rotary = try Rotary(configuration, headSize: headSize)
    let step = try configuration.size("decoder_sparse_step", default: 1)
    let dense = try Set(
      configuration.json["mlp_only_layers"] == nil ? [] : configuration.numbers("mlp_only_layers"))
    return try blueprint(
      blocks: (0..<count).map { index in
        var block = block(index, rotary: rotary)
        if (index + 1) % step == 0, !dense.contains(Double(index)) {
          block.feedForward = .experts(
            try softmaxExperts(block.prefix + "mlp.", inner: configuration.size("moe_intermediate_size")))
        }
        try change(&block)
        return block
      })
  }
}
