import EspalierCore

/// The sizes of a Llama checkpoint or, with experts, of one of Qwen3 MoE.
struct SynthShape: Sendable {
  var hidden = 0
  var inner = 0
  var heads = 0
  var keyHeads = 0
  var headSize = 0
  /// Blocks of the whole model, even if only the first ones are written.
  var blocks = 0
  var vocabulary = 0
  /// Experts of a block, the inner width of each, and how many a token passes; without experts the block has one MLP.
  var experts = 0
  var expertInner = 0
  var activeExperts = 0
  /// Whether the embedding is the head, too.
  var isTied = false
  /// How far the rotary positions are stretched (`rope_scaling.factor`).
  var stretch = 8

  /// The published shapes, by name.
  static let published: [(name: String, shape: SynthShape)] = [
    ("llama-3.2-1b", "hidden=2048,inner=8192,heads=32,keyHeads=8,blocks=16,tied,stretch=32"),
    ("llama-3.2-3b", "hidden=3072,inner=8192,heads=24,keyHeads=8,blocks=28,tied,stretch=32"),
    ("llama-3.1-8b", "hidden=4096,inner=14336,heads=32,keyHeads=8,blocks=32"),
    ("llama-3.1-70b", "hidden=8192,inner=28672,heads=64,keyHeads=8,blocks=80"),
    ("llama-3.1-405b", "hidden=16384,inner=53248,heads=128,keyHeads=8,blocks=126"),
    (
      "qwen3-30b-a3b",
      "hidden=2048,inner=6144,heads=32,keyHeads=4,headSize=128,blocks=48,vocabulary=151936,experts=128,expertInner=768"
    ),
    (
      "qwen3-235b-a22b",
      "hidden=4096,inner=12288,heads=64,keyHeads=4,headSize=128,blocks=94,vocabulary=151936,experts=128,expertInner=1536"
    ),
  ].compactMap { name, sizes in SynthShape(sizes: sizes).map { (name, $0) } }

  /// A published shape, or sizes as `hidden=1024,inner=2816,heads=16,keyHeads=16,vocabulary=32000,blocks=8,tied`.
  ///
  /// `keyHeads` is `heads`, `headSize` is `hidden / heads`, `vocabulary` is that of Llama 3, `expertInner` is `inner` and a token
  /// passes 8 experts if they are left out.
  init?(_ text: String) {
    guard let shape = Self.published.first(where: { $0.name == text })?.shape ?? SynthShape(sizes: text)
    else { return nil }
    self = shape
  }

  private init?(sizes: String) {
    let keys: [String: WritableKeyPath<SynthShape, Int>] = [
      "hidden": \.hidden, "inner": \.inner, "heads": \.heads, "keyHeads": \.keyHeads,
      "headSize": \.headSize, "blocks": \.blocks, "vocabulary": \.vocabulary, "stretch": \.stretch,
      "experts": \.experts, "expertInner": \.expertInner, "activeExperts": \.activeExperts,
    ]
    for item in sizes.split(separator: ",", omittingEmptySubsequences: false) {
      let parts = item.split(separator: "=", maxSplits: 1).map(String.init)
      if item == "tied" {
        isTied = true
      } else if parts.count == 2, let key = keys[parts[0]], let size = Int(parts[1]), size > 0,
        size <= 1 << 20
      {
        self[keyPath: key] = size
      } else {
        return nil
      }
    }
    if keyHeads == 0 { keyHeads = heads }
    if vocabulary == 0 { vocabulary = 128_256 }
    guard hidden > 0, inner > 0, heads > 0, blocks > 0, heads % keyHeads == 0,
      vocabulary >= SynthTokenizer.leastVocabulary
    else { return nil }
    if headSize == 0 { headSize = hidden / heads }
    if expertInner == 0 { expertInner = inner }
    if activeExperts == 0 { activeExperts = min(8, experts) }
    guard headSize > 0, headSize % 2 == 0, activeExperts <= experts else { return nil }
  }

  var queryWidth: Int { heads * headSize }
  var keyWidth: Int { keyHeads * headSize }

  /// `config.json`, with the members of the published ones.
  func configuration(blocks: Int) -> JSON {
    experts > 0 ? mixtureConfiguration(blocks: blocks) : llamaConfiguration(blocks: blocks)
  }

  private func mixtureConfiguration(blocks: Int) -> JSON {
    [
      "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
      "bos_token_id": .integer(SynthTokenizer.begin(vocabulary)), "decoder_sparse_step": 1,
      "eos_token_id": .integer(SynthTokenizer.begin(vocabulary) + 1), "head_dim": .integer(headSize),
      "hidden_act": "silu", "hidden_size": .integer(hidden), "initializer_range": 0.02,
      "intermediate_size": .integer(inner), "max_position_embeddings": 40_960, "mlp_only_layers": [],
      "model_type": "qwen3_moe", "moe_intermediate_size": .integer(expertInner), "norm_topk_prob": true,
      "num_attention_heads": .integer(heads), "num_experts": .integer(experts),
      "num_experts_per_tok": .integer(activeExperts), "num_hidden_layers": .integer(blocks),
      "num_key_value_heads": .integer(keyHeads), "output_router_logits": false, "rms_norm_eps": 1e-6,
      "rope_scaling": .null, "rope_theta": 1_000_000.0, "router_aux_loss_coef": 0.001,
      "sliding_window": .null, "tie_word_embeddings": .bool(isTied), "torch_dtype": "bfloat16",
      "use_cache": true, "use_sliding_window": false, "vocab_size": .integer(vocabulary),
    ]
  }

  private func llamaConfiguration(blocks: Int) -> JSON {
    [
      "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
      "bos_token_id": .integer(SynthTokenizer.begin(vocabulary)),
      "eos_token_id": .integer(SynthTokenizer.begin(vocabulary) + 1), "head_dim": .integer(headSize),
      "hidden_act": "silu", "hidden_size": .integer(hidden), "initializer_range": 0.02,
      "intermediate_size": .integer(inner), "max_position_embeddings": 131_072, "mlp_bias": false,
      "model_type": "llama", "num_attention_heads": .integer(heads), "num_hidden_layers": .integer(blocks),
      "num_key_value_heads": .integer(keyHeads), "pretraining_tp": 1, "rms_norm_eps": 1e-5,
      "rope_scaling": [
        "factor": .number(Double(stretch)), "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
      ],
      "rope_theta": 500_000.0, "tie_word_embeddings": .bool(isTied), "torch_dtype": "bfloat16",
      "use_cache": true, "vocab_size": .integer(vocabulary),
    ]
  }
}
