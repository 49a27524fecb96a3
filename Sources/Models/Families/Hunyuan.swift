extension Family {
  /// Hunyuan, dense: Llama with a norm for each head after the rotation.
  static let hunyuan = Family("hunyuan_v1_dense") { configuration, names in
    let decoder = try Decoder(configuration, names, epsilon: 1e-5)
    let rotary = try Rotary(configuration, headSize: decoder.headSize)
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        block.withAttention {
          decoder.normHeads(&$0, decoder.prefix(index) + "self_attn.", "query_layernorm", "key_layernorm")
          $0.normsAfterRotation = true
        }
        return block
      })
  }
}
