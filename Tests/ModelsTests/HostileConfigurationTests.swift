import EspalierCore
import Testing

@testable import EspalierModels

/// `config.json` files with numbers that overflow, fill the memory or make no sense.
@Suite struct HostileConfigurationTests {
  private static let usual: [(key: String, value: JSON)] = [
    ("model_type", "llama"), ("hidden_size", 16), ("intermediate_size", 24), ("num_hidden_layers", 2),
    ("num_attention_heads", 4), ("num_key_value_heads", 2), ("vocab_size", 260), ("rope_theta", 10000.0),
  ]

  private func message(_ changes: [(key: String, value: JSON)]) -> String {
    let kept = Self.usual.filter { member in !changes.contains { $0.key == member.key } }
    do {
      let outline = try Families.blueprint(.object(JSONObject(kept + changes))).outline
      return "\(outline.blocks.count) blocks"
    } catch { return "\(error)" }
  }

  private static let largest = JSON.integer(1 << 31)

  @Test(.timeLimit(.minutes(30)))
  func sizesThatOverflowOrFillTheMemory() {
    #expect(message([("head_dim", Self.largest)]).contains("head_dim (2147483648)"))
    #expect(
      message([("hidden_size", Self.largest), ("num_attention_heads", 1), ("num_key_value_heads", 1)])
        .contains("head_dim (2147483648)"))
    // The largest accepted value of everything; their products do not overflow.
    #expect(
      message([
        ("head_dim", 65_536), ("hidden_size", Self.largest), ("intermediate_size", Self.largest),
        ("num_attention_heads", Self.largest), ("num_key_value_heads", Self.largest),
        ("vocab_size", Self.largest),
        ("max_position_embeddings", Self.largest),
      ]) == "2 blocks")
    for key in ["hidden_size", "intermediate_size", "num_attention_heads", "vocab_size", "num_hidden_layers"]
    {
      for value: JSON in [0, -1, .integer(.max), .integer(.min), 1e300, 0.5, "16", .null, [], true] {
        #expect(message([(key, value)]).contains(key), "\(key) \(value)")
      }
    }
  }

  @Test(.timeLimit(.minutes(30)))
  func blocksWithoutEnd() {
    #expect(message([("num_hidden_layers", 4096)]) == "4096 blocks")
    #expect(message([("num_hidden_layers", 4097)]).contains("at most 4096"))
  }

  @Test func rotaryScalingsThatAreNone() {
    func scaling(_ members: [(key: String, value: JSON)]) -> String {
      message([("rope_scaling", .object(JSONObject(members)))])
    }
    for factor: JSON in [0, -1, -0.0] {
      #expect(scaling([("rope_type", "linear"), ("factor", factor)]).contains("factor > 0"))
      #expect(
        scaling([
          ("rope_type", "llama3"), ("factor", factor), ("low_freq_factor", 1), ("high_freq_factor", 4),
          ("original_max_position_embeddings", 64),
        ]).contains("factor > 0"))
    }
    #expect(message([("rope_scaling", [])]).contains("rope_scaling must be an object"))
    #expect(message([("rope_theta", 0)]).contains("rope_theta must be positive"))
    #expect(message([("rope_theta", "inf")]).contains("rope_theta must be a number"))
  }

  @Test(arguments: ["gpt2", "gpt_neox", "bloom", "bert", "roberta"])
  func headsThatDoNotFillTheirLayers(modelType: String) {
    func heads(_ count: Int) -> String {
      message([
        ("model_type", .string(modelType)), ("hidden_size", 50), ("rotary_pct", 1),
        ("num_attention_heads", .integer(count)), ("num_key_value_heads", .integer(count)),
      ])
    }
    #expect(heads(5) == "2 blocks")
    #expect(heads(4).contains("4 attention heads of 12 values"))
  }

  @Test func keysThatDoNotDivideTheHeads() {
    func keys(_ count: Int) -> String {
      message([
        ("model_type", "falcon"), ("new_decoder_architecture", true), ("num_kv_heads", .integer(count)),
      ])
    }
    #expect(keys(2) == "2 blocks")
    #expect(keys(3).contains("do not fit"))
  }

  @Test func paddingOutsideOfThePositions() {
    func padding(_ id: Int) -> String {
      message([
        ("model_type", "roberta"), ("num_key_value_heads", 4), ("max_position_embeddings", 20),
        ("pad_token_id", .integer(id)),
      ])
    }
    for id in [0, 18] { #expect(padding(id) == "2 blocks") }
    for id in [-1, 19, .max, .min] { #expect(padding(id).contains("pad_token_id (\(id))")) }
  }

  @Test func whatIsNoConfiguration() throws {
    for json: JSON in [.null, [], 3, "llama", [:], ["model_type": .null], ["model_type": 3]] {
      #expect(throws: EspalierError.self) { try Families.blueprint(json) }
    }
    let long = String(repeating: "x\u{1B}", count: 1000)
    #expect(message([("model_type", .string(long))]).utf8.count < 1000)
  }
}
