import EspalierCore
import EspalierKernels

extension Family {
  /// Falcon, old and new: attention and MLP in parallel or in sequence; rotary positions or ALiBi.
  static let falcon = Family("falcon") { given, names in
    let configuration = given.filled([("layer_norm_epsilon", 1e-5)])
    let isNew = try configuration.flag("new_decoder_architecture", default: false)
    let isMultiQuery = try configuration.flag("multi_query", default: true)
    var decoder = try Decoder(
      configuration, names, tied: true, epsilonKey: "layer_norm_epsilon", activationKey: "activation",
      activation: "gelu", inner: .own("ffn_hidden_size"))
    decoder.root = names.prefix(["transformer.", ""], of: "word_embeddings.weight")
    decoder.blocks = "h."
    decoder.keyHeads =
      isNew
      ? try configuration.size("num_kv_heads", default: decoder.heads) : isMultiQuery ? 1 : decoder.heads
    try decoder.requireCountableHeads()
    let bias = try configuration.flag("bias", default: false)
    let isParallel = try isNew || configuration.flag("parallel_attn", default: true)
    let normCount = try configuration.optionalSize("num_ln_in_parallel_attn") ?? (isNew ? 2 : 1)
    let hasAlibi = try configuration.flag("alibi", default: false)
    let rotary = try hasAlibi ? nil : Rotary(configuration, headSize: decoder.headSize)
    let norms: (String, String?) =
      isNew && normCount == 2
      ? ("ln_attn", "ln_mlp") : ("input_layernorm", isParallel ? nil : "post_attention_layernorm")
    let (hidden, query) = (decoder.hidden, decoder.heads * decoder.headSize)
    let width = query + 2 * decoder.keyHeads * decoder.headSize
    return try decoder.blueprint(
      embedding: "word_embeddings", norm: decoder.layerNorm(decoder.root + "ln_f"),
      blocks: (0..<decoder.count).map { index in
        let prefix = decoder.prefix(index)
        var shape = decoder.shape()
        if hasAlibi {
          shape.slopes = alibiSlopes(heads: decoder.heads)
          shape.alibiIsRounded = true
          shape.alibiScale = shape.scale
        }
        return decoder.block(
          index,
          attention: .init(
            projections: .fused(
              decoder.linear(prefix + "self_attention.query_key_value", width, hidden, bias: bias), .groups),
            rotary: rotary, shape: shape,
            output: decoder.linear(prefix + "self_attention.dense", hidden, query, bias: bias)),
          mlp: decoder.plainMLP(prefix + "mlp.dense_h_to_4h", prefix + "mlp.dense_4h_to_h", bias: bias),
          norms: norms, isParallel: isParallel)
      })
  }
}
