import EspalierKernels

extension Family {
  /// EXAONE 4: norms of outputs and of each head; positions only with sliding windows, if the model has any.
  static let exaone4 = Family("exaone4") { configuration, names in
    let decoder = try Decoder(configuration, names, epsilon: 1e-5)
    let rotary = try Rotary(configuration, headSize: decoder.headSize)
    let window = try configuration.optionalSize("sliding_window")
    let period = (try? configuration.optionalSize("sliding_window_pattern")) ?? 4
    let types = try configuration.layerTypes(decoder.count) {
      window != nil && ($0 + 1) % period != 0 && $0 < decoder.count - 1
        ? "sliding_attention" : "full_attention"
    }
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        let rotates = window == nil || types[index] == "sliding_attention"
        var block = decoder.block(index, rotary: rotates ? rotary : nil)
        block.withPostNorms(decoder)
        try block.withAttention {
          decoder.normHeads(&$0, decoder.prefix(index) + "self_attn.", "q_norm", "k_norm")
          $0.shape.mask = try configuration.mask(types[index], window: window)
        }
        return block
      })
  }
}
