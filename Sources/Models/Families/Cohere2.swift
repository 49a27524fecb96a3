import EspalierKernels

extension Family {
  /// Command R7B and A: attention and MLP in parallel after one layer norm; positions only with sliding windows.
  static let cohere2 = Family("cohere2") { configuration, names in
    let decoder = try Decoder(configuration, names, tied: true, epsilonKey: "layer_norm_eps", epsilon: 1e-5)
    var rotary = try Rotary(configuration, headSize: decoder.headSize)
    rotary.isInterleaved = true
    let window = try configuration.optionalSize("sliding_window") ?? 4096
    let period = try configuration.optionalSize("sliding_window_pattern") ?? 4
    let types = try configuration.layerTypes(decoder.count) {
      ($0 + 1) % period == 0 ? "full_attention" : "sliding_attention"
    }
    var blueprint = try decoder.blueprint(
      norm: decoder.layerNorm("model.norm", bias: false),
      blocks: (0..<decoder.count).map { index in
        let slides = types[index] == "sliding_attention"
        var block = decoder.block(index, rotary: slides ? rotary : nil)
        block.mixerNorm = decoder.layerNorm(block.prefix + "input_layernorm", bias: false)
        block.feedForwardNorm = nil
        block.isParallel = true
        try block.withAttention { $0.shape.mask = try configuration.mask(types[index], window: window) }
        return block
      })
    blueprint.ending.scale = try Float(configuration.number("logit_scale", default: 0.0625))
    return blueprint
  }
}
