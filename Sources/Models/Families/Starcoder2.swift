import EspalierCore
import EspalierKernels

extension Family {
  /// StarCoder2: layer norms, biases, an MLP without a gate, a sliding window.
  static let starcoder2 = Family("starcoder2") { configuration, names in
    var decoder = try Decoder(
      configuration, names, tied: true, epsilonKey: "norm_epsilon", epsilon: 1e-5,
      activation: "gelu_pytorch_tanh")
    let bias = try configuration.flag("use_bias", default: true)
    decoder.attentionBias = bias
    decoder.outputBias = bias
    let rotary = try Rotary(configuration, headSize: decoder.headSize)
    let window = try configuration.optionalSize("sliding_window")
    return try decoder.blueprint(
      norm: decoder.layerNorm("model.norm"),
      blocks: (0..<decoder.count).map { index in
        let prefix = decoder.prefix(index)
        var attention = decoder.attention(prefix + "self_attn.", rotary: rotary)
        attention.shape.mask = window.map { .window($0) } ?? .causal
        return decoder.block(
          index, attention: attention,
          mlp: decoder.plainMLP(prefix + "mlp.c_fc", prefix + "mlp.c_proj", bias: bias),
          norms: ("input_layernorm", "post_attention_layernorm"))
      })
  }
}
