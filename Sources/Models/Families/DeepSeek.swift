import EspalierCore
import EspalierKernels

extension Family {
  /// DeepSeek-V2: latent attention; dense blocks first, then experts chosen by softmax, optionally from the best groups.
  static let deepSeek2 = Family("deepseek_v2") { configuration, names in
    let sizes = try LatentSizes(configuration)
    let configuration = configuration.filled([
      ("first_k_dense_replace", 0), ("n_shared_experts", 2), ("topk_method", "greedy"),
      ("head_dim", .integer(sizes.rotated)),
    ])
    let decoder = try Decoder(configuration, names)
    let method = try configuration.text("topk_method", default: "")
    guard ["greedy", "group_limited_greedy"].contains(method) else {
      throw configuration.unsupported("topk_method", method, supported: "greedy and group_limited_greedy")
    }
    return try decoder.deepSeek(sizes, isInterleaved: true) { prefix in
      var router = try decoder.router(prefix + "weight", .softmax)
      router.scale = try Float(configuration.number("routed_scaling_factor", default: 1))
      if method == "group_limited_greedy" { try router.group(configuration) }
      return router
    }
  }

  /// DeepSeek-V3: the same with sigmoids, and a learned correction of the choice.
  static let deepSeek3 = Family("deepseek_v3") { configuration, names in
    let sizes = try LatentSizes(configuration)
    let configuration = configuration.filled([
      ("first_k_dense_replace", 3), ("n_shared_experts", 1), ("norm_topk_prob", true), ("n_group", 8),
      ("topk_group", 4), ("routed_scaling_factor", 2.5),
      ("head_dim", .integer(sizes.rotated)),
    ])
    let decoder = try Decoder(configuration, names)
    return try decoder.deepSeek(sizes, isInterleaved: configuration.flag("rope_interleave", default: true)) {
      try decoder.sigmoidRouter($0)
    }
  }
}

extension Decoder {
  /// - Parameter router: makes the router from the prefix of its tensors' names.
  fileprivate func deepSeek(
    _ sizes: LatentSizes, isInterleaved: Bool, router: (String) throws -> Blueprint.Router
  ) throws -> Blueprint {
    var rotary = try Rotary(configuration, headSize: sizes.rotated)
    rotary.start = sizes.plain
    rotary.isInterleaved = isInterleaved
    let dense = try configuration.number("first_k_dense_replace")
    return try blueprint(
      blocks: (0..<count).map { index in
        var block = block(index, rotary: nil)
        block.mixer = .attention(latentAttention(block.prefix + "self_attn.", sizes, rotary))
        if Double(index) >= dense {
          block.feedForward = .experts(
            try expertsBesideShared(block.prefix + "mlp.", try router(block.prefix + "mlp.gate.")))
        }
        return block
      })
  }
}
