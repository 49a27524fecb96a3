extension Family {
  /// GLM-4: norms on both sides; half of each head is rotated, in adjacent pairs.
  static let glm4 = Family("glm4") { configuration, names in
    var decoder = try Decoder(configuration, names, epsilon: 1.5625e-07)
    decoder.outputBias = false
    var rotary = try Rotary(configuration, headSize: decoder.headSize, share: 0.5)
    rotary.isInterleaved = true
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        block.mixerOutputNorm = decoder.rms(block.prefix + "post_self_attn_layernorm")
        block.feedForwardOutputNorm = decoder.rms(block.prefix + "post_mlp_layernorm")
        block.feedForward = .dense(decoder.fusedMLP(block.prefix + "mlp."))
        return block
      })
  }
}
