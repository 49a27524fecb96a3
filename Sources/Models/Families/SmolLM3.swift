import EspalierCore
import EspalierKernels

extension Family {
  /// SmolLM3: Llama in which some blocks have no positions.
  static let smolLM3 = Family("smollm3") { configuration, names in
    let decoder = try Decoder(configuration, names, tied: true)
    let rotary = try Rotary(configuration, headSize: decoder.headSize, usualTheta: 2_000_000)
    let period = try configuration.optionalSize("no_rope_layer_interval") ?? 4
    // Despite its name, 1 means a layer with positions.
    let rotates =
      try configuration.json["no_rope_layers"] == nil
      ? (0..<decoder.count).map { ($0 + 1) % period != 0 }
      : configuration.numbers("no_rope_layers").map { $0 != 0 }
    let slides = try configuration.flag("use_sliding_window", default: false)
    let window = try slides ? configuration.optionalSize("sliding_window") : nil
    let types = try configuration.layerTypes(decoder.count) {
      window != nil && !rotates[$0] ? "sliding_attention" : "full_attention"
    }
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: index < rotates.count && rotates[index] ? rotary : nil)
        try block.withAttention { $0.shape.mask = try configuration.mask(types[index], window: window) }
        return block
      })
  }
}
