import EspalierCore

extension Family {
  /// OPT: learned positions from row 2 on; the 350M model has a narrower embedding and norms after each half of a block.
  static let opt = Family("opt") { given, names in
    let configuration = given.filled([("layer_norm_eps", 1e-5)])
    var decoder = try Decoder(
      configuration, names, tied: true, epsilonKey: "layer_norm_eps", activationKey: "activation_function",
      activation: "relu", inner: .key("ffn_dim"))
    decoder.root = names.prefix(["model.decoder.", "decoder."], of: "embed_tokens.weight")
    let bias = try configuration.flag("enable_bias", default: true)
    decoder.attentionBias = bias
    decoder.outputBias = bias
    let normsBefore = try configuration.flag("do_layer_norm_before", default: true)
    let learns = try configuration.flag("layer_norm_elementwise_affine", default: true)
    let width = try configuration.size("word_embed_proj_dim", default: decoder.hidden)
    func norm(_ name: String) -> Blueprint.Norm {
      var norm = decoder.layerNorm(name)
      if !learns { (norm.scale, norm.shift) = ([], []) }
      return norm
    }
    let removesLast = try configuration.flag("_remove_final_layer_norm", default: false)
    var blueprint = try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        let prefix = decoder.prefix(index)
        let (first, second) = (norm(prefix + "self_attn_layer_norm"), norm(prefix + "final_layer_norm"))
        return Blueprint.Block(
          index: index, prefix: prefix, mixerNorm: normsBefore ? first : nil,
          mixer: .attention(decoder.attention(prefix + "self_attn.", rotary: nil, output: "out_proj")),
          afterMixerNorm: normsBefore ? nil : first, feedForwardNorm: normsBefore ? second : nil,
          feedForward: .dense(decoder.plainMLP(prefix + "fc1", prefix + "fc2", bias: bias)),
          afterFeedForwardNorm: normsBefore ? nil : second)
      })
    blueprint.ending.norm = normsBefore && !removesLast ? norm(decoder.root + "final_layer_norm") : nil
    blueprint.embedding.positions = (
      .init(decoder.root + "embed_positions.weight", [blueprint.maximumLength + 2, decoder.hidden]), 2
    )
    blueprint.embedding.table?.shape = [decoder.vocabulary, width]
    blueprint.ending.head?.shape = [decoder.vocabulary, width]
    if width != decoder.hidden {
      blueprint.embedding.projection = decoder.linear(decoder.root + "project_in", decoder.hidden, width)
      blueprint.ending.projection = decoder.linear(decoder.root + "project_out", width, decoder.hidden)
    }
    return blueprint
  }
}
