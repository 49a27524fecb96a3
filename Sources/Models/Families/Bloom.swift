import EspalierCore
import EspalierKernels

extension Family {
  /// BLOOM: positions by ALiBi, a norm of the embedding, one layer for each head's query, key and value.
  static let bloom = Family("bloom") { configuration, names in
    var decoder = try Decoder(
      configuration, names, tied: true, epsilonKey: "layer_norm_epsilon", epsilon: 1e-5, inner: .fourTimes)
    decoder.activation = .geluTanh
    decoder.root = names.prefix(["transformer.", ""], of: "word_embeddings.weight")
    decoder.blocks = "h."
    try decoder.requireCountableHeads()
    let hidden = decoder.hidden
    let residualIsNormed = try configuration.flag(
      "apply_residual_connection_post_layernorm", default: false)
    var blueprint = try decoder.blueprint(
      embedding: "word_embeddings", norm: decoder.layerNorm(decoder.root + "ln_f"),
      blocks: (0..<decoder.count).map { index in
        let prefix = decoder.prefix(index)
        var shape = decoder.shape()
        shape.slopes = alibiSlopes(heads: decoder.heads)
        var block = decoder.block(
          index,
          attention: .init(
            projections: .fused(
              decoder.linear(prefix + "self_attention.query_key_value", 3 * hidden, hidden, bias: true),
              .groups),
            shape: shape, output: decoder.linear(prefix + "self_attention.dense", hidden, hidden, bias: true)),
          mlp: decoder.plainMLP(prefix + "mlp.dense_h_to_4h", prefix + "mlp.dense_4h_to_h", bias: true),
          norms: ("input_layernorm", "post_attention_layernorm"))
        if residualIsNormed {
          (block.enteringNorm, block.mixerNorm) = (block.mixerNorm, nil)
          (block.afterMixerNorm, block.feedForwardNorm) = (block.feedForwardNorm, nil)
        }
        return block
      })
    blueprint.embedding.norm = decoder.layerNorm(decoder.root + "word_embeddings_layernorm")
    return blueprint
  }
}
