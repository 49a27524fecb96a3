import EspalierCore
import EspalierKernels

extension Family {
  /// LFM2: gated short convolutions, and attention in some blocks.
  static let lfm2 = Family("lfm2") { configuration, names in
    var decoder = try Decoder(
      configuration, names, tied: true, epsilonKey: "norm_eps", epsilon: 1e-5,
      inner: configuration.json["block_ff_dim"] == nil ? .key("intermediate_size") : .key("block_ff_dim"))
    decoder.inner = try innerWidth(configuration, decoder.inner)
    let rotary = try Rotary(configuration, headSize: decoder.headSize, usualTheta: 1_000_000)
    let full = try Set(
      configuration.json["full_attn_idxs"] == nil ? [] : configuration.numbers("full_attn_idxs"))
    let types = try configuration.layerTypes(decoder.count) {
      full.isEmpty || full.contains(Double($0)) ? "full_attention" : "conv"
    }
    return try decoder.blueprint(
      norm: decoder.rms("model.embedding_norm"),
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        let prefix = block.prefix
        block.mixerNorm = decoder.rms(prefix + "operator_norm")
        block.feedForwardNorm = decoder.rms(prefix + "ffn_norm")
        block.mixer = try mixer(decoder, prefix, types[index], rotary)
        block.feedForward = .dense(
          .init(
            input: .gated(
              gate: decoder.linear(prefix + "feed_forward.w1", decoder.inner, decoder.hidden),
              up: decoder.linear(prefix + "feed_forward.w3", decoder.inner, decoder.hidden)),
            activation: .activation(.silu),
            down: decoder.linear(prefix + "feed_forward.w2", decoder.hidden, decoder.inner)))
        return block
      })
  }

  private static func mixer(_ decoder: Decoder, _ prefix: String, _ type: String, _ rotary: Rotary) throws
    -> Blueprint.Mixer
  {
    let configuration = decoder.configuration
    if type == "full_attention" {
      var attention = decoder.attention(prefix + "self_attn.", rotary: rotary, output: "out_proj")
      decoder.normHeads(&attention, prefix + "self_attn.", "q_layernorm", "k_layernorm")
      return .attention(attention)
    }
    guard type == "conv" else {
      throw configuration.unsupported("layer_types", type, supported: "conv and full_attention")
    }
    let bias = try configuration.flag("conv_bias", default: false)
    let hidden = decoder.hidden
    return .convolution(
      .init(
        input: decoder.linear(prefix + "conv.in_proj", 3 * hidden, hidden, bias: bias),
        kernel: .init(
          prefix + "conv.conv.weight", [hidden, 1, try configuration.size("conv_L_cache", default: 3)]),
        bias: bias ? .init(prefix + "conv.conv.bias", [hidden]) : nil,
        output: decoder.linear(prefix + "conv.out_proj", hidden, hidden, bias: bias)))
  }

  /// Two thirds of the configured width, times a factor, rounded up to a multiple.
  private static func innerWidth(_ configuration: ModelConfiguration, _ given: Int) throws -> Int {
    guard try configuration.flag("block_auto_adjust_ff_dim", default: true) else { return given }
    let factor = try configuration.number("block_ffn_dim_multiplier", default: 1)
    let multiple = try configuration.size("block_multiple_of", default: 256)
    guard factor > 0, factor <= 1000 else {
      throw EspalierError.badInput(
        "block_ffn_dim_multiplier must be positive, and at most 1000.")
    }
    let width = max(1, Int(factor * Double(2 * given / 3)))
    return (width + multiple - 1) / multiple * multiple
  }
}
