import EspalierKernels

extension Family {
  /// OLMoE: experts in every block; queries and keys are normed over all heads together, and may be clipped.
  static let olmoe = Family("olmoe") { configuration, names in
    let decoder = try Decoder(configuration, names, epsilon: 1e-5)
    let rotary = try Rotary(configuration, headSize: decoder.headSize)
    let limit = try configuration.optionalNumber("clip_qkv").map { Float($0) }
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        block.withAttention {
          let prefix = decoder.prefix(index) + "self_attn."
          $0.queryNorm = decoder.rms(prefix + "q_norm", width: $0.queryWidth)
          $0.keyNorm = decoder.rms(prefix + "k_norm", width: $0.keyWidth)
          $0.limit = limit
        }
        block.feedForward = .experts(
          try decoder.softmaxExperts(block.prefix + "mlp.", inner: decoder.inner))
        return block
      })
  }
}
