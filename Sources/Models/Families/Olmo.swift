import EspalierKernels

extension Family {
  /// OLMo 2 and 3: norms of the outputs of attention and MLP, not of their inputs; queries and keys are normed over all heads together.
  static let olmo = Family("olmo2", "olmo3") { configuration, names in
    let decoder = try Decoder(configuration, names, epsilon: 1e-5)
    let isThree = try configuration.text("model_type", default: "") == "olmo3"
    let window = try configuration.optionalSize("sliding_window")
    let types = try configuration.layerTypes(decoder.count) {
      isThree && ($0 + 1) % 4 != 0 ? "sliding_attention" : "full_attention"
    }
    let rotaries = try decoder.rotaries(types) { type in
      try Rotary(
        configuration, headSize: decoder.headSize, layerType: type, usualTheta: isThree ? 500_000 : 10_000,
        ignoresScaling: type == "sliding_attention")
    }
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotaries[types[index]])
        block.withPostNorms(decoder)
        try block.withAttention {
          let prefix = decoder.prefix(index) + "self_attn."
          $0.queryNorm = decoder.rms(prefix + "q_norm", width: $0.queryWidth)
          $0.keyNorm = decoder.rms(prefix + "k_norm", width: $0.keyWidth)
          $0.shape.mask = try configuration.mask(types[index], window: window)
        }
        return block
      })
  }
}

extension Blueprint.Block {
  /// Norms of the outputs, none of the inputs.
  mutating func withPostNorms(_ decoder: Decoder) {
    mixerNorm = nil
    mixerOutputNorm = decoder.rms(prefix + "post_attention_layernorm")
    feedForwardNorm = nil
    feedForwardOutputNorm = decoder.rms(prefix + "post_feedforward_layernorm")
  }
}
