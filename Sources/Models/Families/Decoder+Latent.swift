import EspalierCore
import EspalierKernels
import Glibc

extension Decoder {
  /// Multi-head latent attention with the names of DeepSeek.
  func latentAttention(
    _ prefix: String, _ sizes: LatentSizes, _ rotary: Rotary
  ) -> Blueprint.Attention {
    let size = sizes.plain + sizes.rotated
    let query =
      sizes.queryRank.map { linear(prefix + "q_a_proj", $0, hidden, bias: attentionBias) }
      ?? linear(prefix + "q_proj", heads * size, hidden)
    let latent = Blueprint.Latent(
      query: query, queryNorm: sizes.queryRank.map { latentNorm(prefix + "q_a_layernorm", $0) },
      queryUp: sizes.queryRank.map { linear(prefix + "q_b_proj", heads * size, $0) },
      keyValue: linear(
        prefix + "kv_a_proj_with_mqa", sizes.rank + sizes.rotated, hidden, bias: attentionBias),
      keyValueNorm: latentNorm(prefix + "kv_a_layernorm", sizes.rank),
      keyValueUp: linear(prefix + "kv_b_proj", heads * (sizes.plain + sizes.value), sizes.rank),
      rank: sizes.rank, rotated: sizes.rotated, plain: sizes.plain)
    return Blueprint.Attention(
      projections: .latent(latent), rotary: rotary,
      shape: AttentionShape(
        heads: heads, keyHeads: heads, headSize: size, valueSize: sizes.value, scale: sizes.scale),
      output: linear(prefix + "o_proj", hidden, heads * sizes.value, bias: outputBias))
  }

  /// Norms of latent vectors have an epsilon of their own.
  private func latentNorm(_ module: String, _ width: Int) -> Blueprint.Norm {
    var norm = rms(module, width: width)
    norm.epsilon = 1e-6
    return norm
  }
}

/// Sizes of latent attention.
struct LatentSizes {
  let rank: Int
  /// Nil if queries come directly from the hidden states.
  let queryRank: Int?
  let plain: Int
  let rotated: Int
  let value: Int
  /// Factor of the products of queries and keys.
  let scale: Float

  init(_ configuration: ModelConfiguration) throws {
    rank = try configuration.size("kv_lora_rank")
    queryRank = try configuration.optionalSize("q_lora_rank")
    plain = try configuration.size("qk_nope_head_dim")
    rotated = try configuration.size("qk_rope_head_dim")
    value = try configuration.size("v_head_dim")
    guard plain <= 65_536, rotated <= 65_536, value <= 65_536, (plain + rotated) % 2 == 0 else {
      throw EspalierError.badInput(
        "qk_nope_head_dim (\(plain)) and qk_rope_head_dim (\(rotated)) must be even together, and each, as v_head_dim (\(value)), at most 65536."
      )
    }
    scale = try Self.magnitude(configuration) / Float(plain + rotated).squareRoot()
  }

  /// YaRN's factor of the scale: the square of its magnitude for all dimensions.
  private static func magnitude(_ configuration: ModelConfiguration) throws -> Float {
    guard let scaling = try configuration.section("rope_parameters") ?? configuration.section("rope_scaling"),
      try scaling.text("rope_type", default: scaling.text("type", default: "default")) != "default",
      let share = try scaling.optionalNumber("mscale_all_dim"), share != 0
    else { return 1 }
    let factor = try scaling.number("factor")
    let magnitude = factor <= 1 ? 1 : 0.1 * share * log(factor) + 1
    return Float(magnitude * magnitude)
  }
}
