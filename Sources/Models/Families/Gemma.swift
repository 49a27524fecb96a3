import EspalierCore
import EspalierKernels

extension Family {
  /// Gemma: norms that store the difference from 1, embeddings times the root of their width, GELU.
  static let gemma = Family("gemma") { configuration, names in
    let decoder = try gemmaDecoder(configuration, names)
    let rotary = try Rotary(configuration, headSize: decoder.headSize)
    return try decoder.gemma(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        block.mixerNorm?.offset = 1
        block.feedForwardNorm?.offset = 1
        return block
      })
  }

  /// Gemma 2: norms on both sides, soft caps, every other block with a sliding window.
  static let gemma2 = Family("gemma2") { given, names in
    let configuration = given.filled([
      ("query_pre_attn_scalar", 256), ("sliding_window", 4096), ("head_dim", 256),
    ])
    let decoder = try gemmaDecoder(configuration, names)
    let types = try configuration.layerTypes(decoder.count) {
      $0 % 2 == 0 ? "sliding_attention" : "full_attention"
    }
    let rotary = try Rotary(configuration, headSize: decoder.headSize)
    var blueprint = try decoder.gemma(
      blocks: (0..<decoder.count).map { index in
        try decoder.gemma2Block(index, types[index], rotary: rotary)
      })
    blueprint.ending.softCap = try Float(configuration.optionalNumber("final_logit_softcapping") ?? 0)
    return blueprint
  }

  /// Gemma 3: Gemma 2 with a norm for each head, and faster rotation with sliding windows.
  static let gemma3Text = Family("gemma3_text") { configuration, names in
    var blueprint = try gemma3(configuration, names, root: "model.", head: "lm_head")
    blueprint.ending.softCap = try Float(configuration.optionalNumber("final_logit_softcapping") ?? 0)
    return blueprint
  }

  /// The language model of a Gemma 3 that also sees images.
  static let gemma3 = Family("gemma3") { configuration, names in
    guard let text = try configuration.section("text_config") else {
      throw EspalierError.badInput("text_config is missing.")
    }
    let root = names.prefix(["language_model.model.", "model.language_model."], of: "embed_tokens.weight")
    let tied = try configuration.flag(
      "tie_word_embeddings", default: text.flag("tie_word_embeddings", default: true))
    let head = names.first(["lm_head.weight", "language_model.lm_head.weight"]).dropLast(".weight".count)
    return try gemma3(
      text.filled([("tie_word_embeddings", .bool(tied))]), names, root: root, head: String(head))
  }

  private static func gemma3(
    _ given: ModelConfiguration, _ names: TensorNames, root: String, head: String
  ) throws -> Blueprint {
    let configuration = given.filled([
      ("num_attention_heads", 8), ("num_key_value_heads", 4), ("head_dim", 256), ("vocab_size", 262_208),
      ("query_pre_attn_scalar", 256), ("sliding_window", 4096), ("max_position_embeddings", 131_072),
    ])
    try configuration.require("use_bidirectional_attention", false)
    var decoder = try gemmaDecoder(configuration, names)
    decoder.root = root
    let period = try configuration.optionalSize("sliding_window_pattern") ?? 6
    let types = try configuration.layerTypes(decoder.count) {
      ($0 + 1) % period == 0 ? "full_attention" : "sliding_attention"
    }
    let local = try configuration.number("rope_local_base_freq", default: 10_000)
    let isNested = try configuration.section("rope_parameters")?.section("sliding_attention") != nil
    let rotaries = try decoder.rotaries(types) { type in
      if type == "sliding_attention", !isNested {
        return try Rotary(configuration, headSize: decoder.headSize, theta: local, ignoresScaling: true)
      }
      return try Rotary(configuration, headSize: decoder.headSize, layerType: type, usualTheta: 1_000_000)
    }
    return try decoder.gemma(
      head: head,
      blocks: (0..<decoder.count).map { index in
        var block = try decoder.gemma2Block(index, types[index], rotary: rotaries[types[index]])
        block.withAttention {
          decoder.normHeads(&$0, decoder.prefix(index) + "self_attn.", "q_norm", "k_norm", offset: 1)
        }
        return block
      })
  }

  private static func gemmaDecoder(_ configuration: ModelConfiguration, _ names: TensorNames) throws
    -> Decoder
  {
    var decoder = try Decoder(configuration, names, tied: true, activation: "gelu_pytorch_tanh")
    // Old configurations say gelu but mean this one.
    decoder.activation = .geluTanh
    return decoder
  }
}

extension Decoder {
  fileprivate func gemma(head: String = "lm_head", blocks: [Blueprint.Block]) throws -> Blueprint {
    var blueprint = try blueprint(norm: rms(root + "norm", offset: 1), head: head, blocks: blocks)
    blueprint.embedding.scale = Float(hidden).squareRoot()
    return blueprint
  }

  fileprivate func gemma2Block(_ index: Int, _ type: String, rotary: Rotary?) throws -> Blueprint.Block {
    var block = block(index, rotary: rotary)
    let prefix = block.prefix
    block.mixerNorm?.offset = 1
    block.mixerOutputNorm = rms(prefix + "post_attention_layernorm", offset: 1)
    block.feedForwardNorm = rms(prefix + "pre_feedforward_layernorm", offset: 1)
    block.feedForwardOutputNorm = rms(prefix + "post_feedforward_layernorm", offset: 1)
    try block.withAttention {
      $0.shape.scale = try 1 / Float(configuration.number("query_pre_attn_scalar")).squareRoot()
      $0.shape.mask = try configuration.mask(type, window: configuration.optionalSize("sliding_window"))
      $0.shape.softCap = try Float(configuration.optionalNumber("attn_logit_softcapping") ?? 0)
    }
    return block
  }
}
