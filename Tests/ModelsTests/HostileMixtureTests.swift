import EspalierCore
import Testing

@testable import EspalierModels

/// Configurations of mixtures with numbers that would fill the memory or make no sense.
@Suite struct HostileMixtureTests {
  private static let mixtral: [(key: String, value: JSON)] = [
    ("model_type", "mixtral"), ("hidden_size", 16), ("intermediate_size", 24), ("num_hidden_layers", 2),
    ("num_attention_heads", 4), ("num_key_value_heads", 2), ("vocab_size", 260), ("num_local_experts", 8),
    ("num_experts_per_tok", 2),
  ]
  private static let deepSeek: [(key: String, value: JSON)] =
    mixtral.dropFirst() + [
      ("model_type", "deepseek_v3"), ("moe_intermediate_size", 8), ("kv_lora_rank", 6),
      ("qk_nope_head_dim", 4), ("qk_rope_head_dim", 2), ("v_head_dim", 3), ("n_group", 4), ("topk_group", 2),
      ("first_k_dense_replace", 0),
    ]

  private func message(
    _ usual: [(key: String, value: JSON)], _ changes: [(key: String, value: JSON)] = []
  ) -> String {
    let kept = usual.filter { member in !changes.contains { $0.key == member.key } }
    do {
      let outline = try Families.blueprint(.object(JSONObject(kept + changes))).outline
      return "\(outline.blocks.count) blocks"
    } catch { return "\(error)" }
  }

  @Test func expertsWithoutEnd() {
    #expect(message(Self.mixtral) == "2 blocks")
    #expect(message(Self.mixtral, [("num_local_experts", 32_769)]).contains("at most 65536"))
    #expect(message(Self.mixtral, [("num_local_experts", .integer(1 << 31))]).contains("at most 65536"))
    #expect(message(Self.mixtral, [("num_local_experts", 0)]).contains("num_local_experts"))
    #expect(message(Self.mixtral, [("num_experts_per_tok", 9)]).contains("num_experts_per_tok (9)"))
  }

  @Test func groupsThatDoNotFit() {
    #expect(message(Self.deepSeek) == "2 blocks")
    for change: (key: String, value: JSON) in [
      ("n_group", 3), ("topk_group", 5), ("num_experts_per_tok", 5), ("n_group", .integer(1 << 31)),
    ] {
      #expect(message(Self.deepSeek, [change]).contains("n_group"), "\(change)")
    }
  }

  @Test func sizesOfLatentAttention() {
    for key in ["kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"] {
      for value: JSON in [0, -1, 0.5, .null] {
        #expect(message(Self.deepSeek, [(key, value)]).contains(key), "\(key) \(value)")
      }
    }
    #expect(message(Self.deepSeek, [("qk_nope_head_dim", 3)]).contains("must be even together"))
    #expect(message(Self.deepSeek, [("v_head_dim", 65_537)]).contains("at most 65536"))
    // The largest accepted value of everything; their products do not overflow.
    let largest = JSON.integer(1 << 31)
    #expect(
      message(
        Self.deepSeek,
        [
          ("hidden_size", largest), ("intermediate_size", largest), ("vocab_size", largest),
          ("num_attention_heads", largest), ("num_key_value_heads", largest), ("kv_lora_rank", largest),
          ("q_lora_rank", largest), ("moe_intermediate_size", largest), ("qk_nope_head_dim", 65_536),
          ("qk_rope_head_dim", 65_536), ("v_head_dim", 65_536),
        ]) == "2 blocks")
    #expect(message(Self.deepSeek, [("n_shared_experts", largest)]).contains("n_shared_experts"))
  }

  @Test func quantizedWeightsAreRefused() {
    let quantized = JSON.object(JSONObject([("quant_method", "mxfp4")]))
    #expect(
      message(Self.mixtral, [("quantization_config", quantized)]).contains(
        "the weights are quantized (mxfp4)"))
  }
}
