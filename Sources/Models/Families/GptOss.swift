import EspalierCore
import EspalierKernels

extension Family {
  /// gpt-oss: stacked experts with biases, sinks, and a window in every second block.
  static let gptOss = Family("gpt_oss") { configuration, names in
    let configuration = configuration.filled(
      [("head_dim", 64), ("attention_bias", true)]
        + (configuration.json["rope_parameters"] == nil ? [("rope_scaling", usualScaling)] : []))
    let decoder = try Decoder(configuration, names, epsilon: 1e-5)
    let rotary = try Rotary(configuration, headSize: decoder.headSize, usualTheta: 150_000)
    let window = try configuration.optionalSize("sliding_window") ?? 128
    let types = try configuration.layerTypes(decoder.count) {
      $0 % 2 == 0 ? "sliding_attention" : "full_attention"
    }
    let gate = try Blueprint.MLP.Gate.clamped(
      limit: Float(configuration.number("swiglu_limit", default: 7)),
      alpha: Float(configuration.number("swiglu_alpha", default: 1.702)))
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        try block.withAttention {
          $0.shape.mask = try configuration.mask(types[index], window: window)
          $0.sinks = .init(decoder.prefix(index) + "self_attn.sinks", [decoder.heads])
        }
        block.feedForward = .experts(try decoder.gptOssExperts(block.prefix + "mlp.", gate))
        return block
      })
  }

  private static let usualScaling = JSON.object(
    JSONObject([
      ("rope_type", "yarn"), ("factor", 32), ("beta_fast", 32), ("beta_slow", 1), ("truncate", false),
      ("original_max_position_embeddings", 4096),
    ]))
}

extension Decoder {
  fileprivate func gptOssExperts(_ prefix: String, _ gate: Blueprint.MLP.Gate) throws -> Blueprint.Experts {
    var router = try router(prefix + "router.weight", .softmaxOfChosen)
    router.bias = .init(prefix + "router.bias", [try expertCount()])
    var stack = ExpertStack(prefix: prefix + "experts.")
    stack.inputBias = stack.input + "_bias"
    stack.downBias = stack.down + "_bias"
    stack.order = .columns
    stack.isInterleaved = true
    var experts = try experts(stack, inner: inner)
    for index in experts.indices { experts[index].activation = gate }
    return .init(router: router, experts: experts)
  }
}
