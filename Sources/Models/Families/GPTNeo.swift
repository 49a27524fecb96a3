import EspalierCore
import EspalierKernels

extension Family {
  /// GPT-Neo: GPT-2 with unscaled scores, and windows in every other block.
  static let gptNeo = Family("gpt_neo") { configuration, names in
    var decoder = try Decoder(
      configuration, names, tied: true, epsilonKey: "layer_norm_epsilon", epsilon: 1e-5,
      activationKey: "activation_function", activation: "gelu_new", inner: .own("intermediate_size"))
    decoder.root = names.prefix(["transformer.", ""], of: "wte.weight")
    decoder.blocks = "h."
    decoder.outputBias = true
    let window = try configuration.size("window_size", default: 256)
    let types = try attentionTypes(configuration, decoder.count)
    var blueprint = try decoder.blueprint(
      embedding: "wte", norm: decoder.layerNorm(decoder.root + "ln_f"),
      blocks: (0..<decoder.count).map { index in
        let prefix = decoder.prefix(index)
        var attention = decoder.attention(prefix + "attn.attention.", rotary: nil, output: "out_proj")
        attention.shape.scale = 1
        attention.shape.mask = try configuration.mask(types[index], window: window)
        return decoder.block(
          index, attention: attention,
          mlp: decoder.plainMLP(prefix + "mlp.c_fc", prefix + "mlp.c_proj", bias: true),
          norms: ("ln_1", "ln_2"))
      })
    blueprint.embedding.positions = (
      .init(decoder.root + "wpe.weight", [blueprint.maximumLength, decoder.hidden]), 0
    )
    return blueprint
  }

  /// `attention_layers`, or `attention_types` as `[[["global", "local"], 12]]`.
  private static func attentionTypes(_ configuration: ModelConfiguration, _ count: Int) throws -> [String] {
    var types = try configuration.texts("attention_layers") ?? []
    if types.isEmpty {
      for item in configuration.json["attention_types"]?.array ?? [] {
        guard let pair = item.array, pair.count == 2, let times = pair[1].integer,
          (0...count).contains(times),
          let names = pair[0].array?.compactMap(\.string)
        else { continue }
        for _ in 0..<times { types += names }
      }
    }
    guard types.count == count else {
      throw EspalierError.badInput(
        "attention_types must name a type for each of \(count) layers.")
    }
    return types
  }
}
