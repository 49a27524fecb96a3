import EspalierCore
import EspalierKernels

extension Family {
  /// Qwen3-Next and Qwen3.5: the gated delta rule in most blocks, gated attention in the others.
  static let qwenNext = Family(
    "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"
  ) { configuration, names in try qwenNext(configuration, names, root: "model.") }

  /// The language model of a Qwen3.5 that also sees images.
  static let qwen35 = Family("qwen3_5", "qwen3_5_moe") { configuration, names in
    guard let text = try configuration.section("text_config") else {
      throw EspalierError.badInput("text_config is missing.")
    }
    let root = names.prefix(["model.language_model.", "model."], of: "embed_tokens.weight")
    let tied = try configuration.flag(
      "tie_word_embeddings", default: text.flag("tie_word_embeddings", default: false))
    return try qwenNext(text.filled([("tie_word_embeddings", .bool(tied))]), names, root: root)
  }

  private static func qwenNext(
    _ configuration: ModelConfiguration, _ names: TensorNames, root: String
  ) throws -> Blueprint {
    let isMixture = configuration.json["num_experts"] != nil
    var decoder = try Decoder(
      configuration, names,
      inner: isMixture && configuration.json["intermediate_size"] == nil
        ? .key("moe_intermediate_size") : .key("intermediate_size"))
    decoder.root = root
    let isNext = try configuration.text("model_type", default: "") == "qwen3_next"
    let rotary = try Rotary(configuration, headSize: decoder.headSize, share: 0.25)
    let period = try configuration.size("full_attention_interval", default: 4)
    let types = try configuration.layerTypes(decoder.count) {
      ($0 + 1) % period == 0 ? "full_attention" : "linear_attention"
    }
    let step = try configuration.size("decoder_sparse_step", default: 1)
    let dense = try Set(
      configuration.json["mlp_only_layers"] == nil ? [] : configuration.numbers("mlp_only_layers"))
    return try decoder.blueprint(
      norm: decoder.rms(root + "norm", offset: 1),
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        block.mixerNorm?.offset = 1
        block.feedForwardNorm?.offset = 1
        switch types[index] {
        case "full_attention": block.mixer = .attention(gatedAttention(decoder, block.prefix, rotary))
        case "linear_attention": block.mixer = .deltaNet(try deltaNet(decoder, block.prefix, isFused: isNext))
        default:
          throw configuration.unsupported(
            "layer_types", types[index], supported: "linear_attention and full_attention")
        }
        if isMixture, (index + 1) % step == 0, !dense.contains(Double(index)) {
          block.feedForward = .experts(try experts(decoder, block.prefix + "mlp.", isNormed: !isNext))
        }
        return block
      })
  }

  /// Attention in which each head's queries are followed by the gates of its output.
  private static func gatedAttention(_ decoder: Decoder, _ prefix: String, _ rotary: Rotary)
    -> Blueprint.Attention
  {
    let place = prefix + "self_attn."
    var attention = decoder.attention(place, rotary: rotary)
    if case .separate(_, let key, let value) = attention.projections {
      attention.projections = .separate(
        query: decoder.linear(
          place + "q_proj", 2 * attention.queryWidth, decoder.hidden, bias: decoder.attentionBias), key: key,
        value: value)
    }
    attention.isGated = true
    decoder.normHeads(&attention, place, "q_norm", "k_norm", offset: 1)
    return attention
  }

  private static func deltaNet(_ decoder: Decoder, _ prefix: String, isFused: Bool) throws
    -> Blueprint.DeltaNet
  {
    let configuration = decoder.configuration
    let shape = try DeltaRuleShape(
      keyHeads: configuration.size("linear_num_key_heads"),
      valueHeads: configuration.size("linear_num_value_heads"),
      keySize: configuration.size("linear_key_head_dim"),
      valueSize: configuration.size("linear_value_head_dim"))
    guard shape.valueHeads % shape.keyHeads == 0, shape.keySize <= 65_536, shape.valueSize <= 65_536 else {
      throw EspalierError.badInput(
        "linear_num_value_heads (\(shape.valueHeads)) must be a multiple of linear_num_key_heads (\(shape.keyHeads))."
      )
    }
    let (place, hidden) = (prefix + "linear_attn.", decoder.hidden)
    let channels = 2 * shape.keyWidth + shape.valueWidth
    let fused = Blueprint.Parameter(place + "in_proj_ba.weight", [2 * shape.valueHeads, hidden])
    return .init(
      shape: shape,
      input: isFused
        ? .fused(decoder.linear(place + "in_proj_qkvz", channels + shape.valueWidth, hidden))
        : .separate(
          qkv: decoder.linear(place + "in_proj_qkv", channels, hidden),
          z: decoder.linear(place + "in_proj_z", shape.valueWidth, hidden)),
      decay: isFused ? fused : .init(place + "in_proj_a.weight", [shape.valueHeads, hidden]),
      strength: isFused ? fused : .init(place + "in_proj_b.weight", [shape.valueHeads, hidden]),
      convolution: .init(
        place + "conv1d.weight", [channels, 1, try configuration.size("linear_conv_kernel_dim", default: 4)]),
      logA: .init(place + "A_log", [shape.valueHeads]),
      timeBias: .init(place + "dt_bias", [shape.valueHeads]),
      norm: decoder.rms(place + "norm", width: shape.valueSize),
      output: decoder.linear(place + "out_proj", hidden, shape.valueWidth))
  }

  private static func experts(_ decoder: Decoder, _ prefix: String, isNormed: Bool) throws
    -> Blueprint.Experts
  {
    let configuration = decoder.configuration
    var experts = try decoder.softmaxExperts(prefix, inner: configuration.size("moe_intermediate_size"))
    experts.router.isNormalized = try configuration.flag("norm_topk_prob", default: true) || isNormed
    experts.shared = decoder.gatedMLP(
      prefix + "shared_expert.", inner: try configuration.size("shared_expert_intermediate_size"))
    experts.sharedGate = .init(prefix + "shared_expert_gate.weight", [1, decoder.hidden])
    return experts
  }
}
