import EspalierKernels

extension Family {
  /// Mistral: Llama with a sliding window in all blocks, if there is one.
  static let mistral = Family("mistral") { configuration, names in
    let decoder = try Decoder(configuration, names)
    let rotary = try Rotary(configuration, headSize: decoder.headSize)
    let window = try configuration.optionalSize("sliding_window")
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        block.withAttention { $0.shape.mask = window.map { .window($0) } ?? .causal }
        return block
      })
  }

  /// Ministral: the same, block by block.
  static let ministral = Family("ministral") { configuration, names in
    let decoder = try Decoder(configuration, names)
    let rotary = try Rotary(configuration, headSize: decoder.headSize)
    let window = try configuration.optionalSize("sliding_window")
    let types = try configuration.layerTypes(decoder.count) { _ in
      window == nil ? "full_attention" : "sliding_attention"
    }
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        try block.withAttention { $0.shape.mask = try configuration.mask(types[index], window: window) }
        return block
      })
  }
}
