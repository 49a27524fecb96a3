import EspalierCore
import EspalierKernels

extension Family {
  /// Gemma 4: plain norms on both sides, normed values, wider heads in blocks without windows, in some an MLP beside experts.
  static let gemma4 = Family("gemma4_text", "gemma4") { given, names in
    let text = try given.section("text_config") ?? given
    let root = names.prefix(["model.language_model.", "model."], of: "embed_tokens.weight")
    let tied = try given.flag(
      "tie_word_embeddings", default: text.flag("tie_word_embeddings", default: true))
    let configuration = text.filled([
      ("tie_word_embeddings", .bool(tied)), ("head_dim", 256), ("sliding_window", 512),
      ("hidden_activation", "gelu_pytorch_tanh"), ("vocab_size", 262_144),
      ("max_position_embeddings", 131_072),
    ])
    // These pass more than the hidden states from block to block.
    for key in ["hidden_size_per_layer_input", "num_kv_shared_layers"] {
      guard try configuration.optionalNumber(key) ?? 0 == 0 else {
        throw configuration.unsupported(key, configuration.json[key]?.text ?? "", supported: "0")
      }
    }
    var decoder = try Decoder(configuration, names, tied: true)
    decoder.root = root
    let types = try configuration.layerTypes(decoder.count) {
      ($0 + 1) % 6 == 0 || $0 == decoder.count - 1 ? "full_attention" : "sliding_attention"
    }
    var blueprint = try decoder.blueprint(
      blocks: (0..<decoder.count).map { try block(decoder, $0, types[$0]) })
    blueprint.embedding.scale = Float(decoder.hidden).squareRoot()
    blueprint.ending.softCap = try Float(configuration.optionalNumber("final_logit_softcapping") ?? 0)
    return blueprint
  }

  private static func block(_ decoder: Decoder, _ index: Int, _ type: String) throws -> Blueprint.Block {
    let configuration = decoder.configuration
    let isFull = type == "full_attention"
    let sharesKeys = try isFull && configuration.flag("attention_k_eq_v", default: false)
    var own = decoder
    (own.headSize, own.keyHeads) = try heads(decoder, index, isFull: isFull, sharesKeys: sharesKeys)
    let rotary = try Rotary(
      configuration, headSize: own.headSize, layerType: type, usualTheta: isFull ? 1_000_000 : 10_000,
      share: isFull ? 0.25 : 1)
    var block = own.block(index, rotary: rotary)
    let prefix = block.prefix
    block.mixerOutputNorm = own.rms(prefix + "post_attention_layernorm")
    block.feedForwardNorm = own.rms(prefix + "pre_feedforward_layernorm")
    block.feedForwardOutputNorm = own.rms(prefix + "post_feedforward_layernorm")
    block.outputScale = .init(prefix + "layer_scalar", [1])
    try block.withAttention {
      own.normHeads(&$0, prefix + "self_attn.", "q_norm", "k_norm")
      $0.valueNorm = .init(kind: .rms, width: own.headSize, epsilon: own.epsilon)
      $0.shape.scale = 1
      $0.shape.mask = try configuration.mask(type, window: configuration.optionalSize("sliding_window"))
      if sharesKeys, case .separate(let query, let key, _) = $0.projections {
        $0.projections = .separate(query: query, key: key, value: nil)
      }
    }
    if try configuration.flag("enable_moe_block", default: false) {
      block.feedForward = .denseAndExperts(
        own.gatedMLP(prefix + "mlp."), outputNorm: own.rms(prefix + "post_feedforward_layernorm_1"),
        try experts(own, prefix))
    }
    return block
  }

  /// Head size and key heads of a block: its own in `per_layer_config`, or those of all blocks without a window.
  private static func heads(_ decoder: Decoder, _ index: Int, isFull: Bool, sharesKeys: Bool) throws -> (
    Int, Int
  ) {
    let configuration = decoder.configuration
    if let layers = try configuration.section("per_layer_config") {
      guard let layer = try layers.section(String(index)) else { return (decoder.headSize, decoder.keyHeads) }
      return try (
        layer.size("head_dim", default: decoder.headSize),
        layer.size("num_key_value_heads", default: decoder.keyHeads)
      )
    }
    guard isFull else { return (decoder.headSize, decoder.keyHeads) }
    let keyHeads = try sharesKeys ? configuration.optionalSize("num_global_key_value_heads") : nil
    return (try configuration.size("global_head_dim", default: 512), keyHeads ?? decoder.keyHeads)
  }

  private static func experts(_ decoder: Decoder, _ prefix: String) throws -> Blueprint.Experts {
    let configuration = decoder.configuration
    var router = try decoder.router(
      prefix + "router.proj.weight", .softmax, chosen: configuration.size("top_k_experts"))
    router.isNormalized = true
    router.inputNorm = .init(kind: .rms, width: decoder.hidden, epsilon: decoder.epsilon)
    router.inputScale = .init(prefix + "router.scale", [decoder.hidden])
    router.inputFactor = 1 / Float(decoder.hidden).squareRoot()
    router.expertScale = .init(prefix + "router.per_expert_scale", [router.weight.shape[0]])
    var experts = Blueprint.Experts(
      router: router,
      experts: try decoder.experts(
        ExpertStack(prefix: prefix + "experts."), inner: configuration.size("moe_intermediate_size")))
    experts.inputNorm = decoder.rms(prefix + "pre_feedforward_layernorm_2")
    experts.outputNorm = decoder.rms(prefix + "post_feedforward_layernorm_2")
    return experts
  }
}
