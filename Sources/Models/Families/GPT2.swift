import EspalierCore

extension Family {
  /// GPT-2: learned positions, layers stored inputs x outputs (`Conv1D`), one for queries, keys and values.
  static let gpt2 = Family("gpt2") { given, names in
    let configuration = given.filled([("layer_norm_epsilon", 1e-5)])
    var decoder = try Decoder(
      configuration, names, tied: true, epsilonKey: "layer_norm_epsilon",
      activationKey: "activation_function",
      activation: "gelu_new", inner: .own("n_inner"))
    decoder.root = names.prefix(["transformer.", ""], of: "wte.weight")
    decoder.blocks = "h."
    try configuration.require("add_cross_attention", false)
    let scales = try configuration.flag("scale_attn_weights", default: true)
    let byLayer = try configuration.flag("scale_attn_by_inverse_layer_idx", default: false)
    let (hidden, columns) = (decoder.hidden, ModelOutline.Matrix.Order.columns)
    var blueprint = try decoder.blueprint(
      embedding: "wte", norm: decoder.layerNorm(decoder.root + "ln_f"),
      blocks: (0..<decoder.count).map { index in
        let prefix = decoder.prefix(index)
        var scale: Float = scales ? 1 / Float(decoder.headSize).squareRoot() : 1
        if byLayer { scale /= Float(index + 1) }
        return decoder.block(
          index,
          attention: .init(
            projections: .fused(
              decoder.linear(prefix + "attn.c_attn", 3 * hidden, hidden, bias: true, order: columns), .blocks),
            shape: decoder.shape(scale: scale),
            output: decoder.linear(prefix + "attn.c_proj", hidden, hidden, bias: true, order: columns)),
          mlp: decoder.plainMLP(prefix + "mlp.c_fc", prefix + "mlp.c_proj", bias: true, order: columns),
          norms: ("ln_1", "ln_2"))
      })
    blueprint.embedding.positions = (
      .init(decoder.root + "wpe.weight", [blueprint.maximumLength, hidden]), 0
    )
    return blueprint
  }
}

extension Decoder {
  /// A block with layer norms before attention and MLP; a parallel block with one norm shares it.
  func block(
    _ index: Int, attention: Blueprint.Attention, mlp: Blueprint.MLP, norms: (String, String?),
    isParallel: Bool = false
  ) -> Blueprint.Block {
    let prefix = prefix(index)
    return Blueprint.Block(
      index: index, prefix: prefix, mixerNorm: layerNorm(prefix + norms.0), mixer: .attention(attention),
      feedForwardNorm: norms.1.map { layerNorm(prefix + $0) }, feedForward: .dense(mlp),
      isParallel: isParallel)
  }
}
