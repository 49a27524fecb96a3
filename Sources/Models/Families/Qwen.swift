import EspalierKernels

extension Family {
  /// Qwen2 and 2.5: Llama with biases of queries, keys and values.
  static let qwen2 = Family("qwen2") { configuration, names in
    var decoder = try Decoder(configuration, names)
    decoder.attentionBias = true
    decoder.outputBias = false
    return try qwen(decoder) { _, _ in }
  }

  /// Qwen3: a norm for each head's query and key.
  static let qwen3 = Family("qwen3") { configuration, names in
    let decoder = try Decoder(configuration, names)
    return try qwen(decoder) { attention, prefix in
      decoder.normHeads(&attention, prefix, "q_norm", "k_norm")
    }
  }

  private static func qwen(
    _ decoder: Decoder, _ change: (inout Blueprint.Attention, String) -> Void
  ) throws -> Blueprint {
    let configuration = decoder.configuration
    let rotary = try Rotary(configuration, headSize: decoder.headSize)
    let slides = try configuration.flag("use_sliding_window", default: false)
    let window = try slides ? configuration.optionalSize("sliding_window") : nil
    let first = try configuration.optionalNumber("max_window_layers") ?? 28
    let types = try configuration.layerTypes(decoder.count) {
      window != nil && Double($0) >= first ? "sliding_attention" : "full_attention"
    }
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        try block.withAttention {
          $0.shape.mask = try configuration.mask(types[index], window: window)
          change(&$0, decoder.prefix(index) + "self_attn.")
        }
        return block
      })
  }
}
