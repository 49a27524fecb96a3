import EspalierKernels

extension Family {
  /// Mixtral: Mistral with experts, whose weights sum to 1.
  static let mixtral = Family("mixtral") { configuration, names in
    let decoder = try Decoder(configuration, names, epsilon: 1e-5)
    let rotary = try Rotary(configuration, headSize: decoder.headSize, usualTheta: 1e6)
    let window = try configuration.optionalSize("sliding_window")
    return try decoder.blueprint(
      blocks: (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        block.withAttention { $0.shape.mask = window.map { .window($0) } ?? .causal }
        let prefix = names.prefix(
          [block.prefix + "block_sparse_moe.", block.prefix + "mlp."], of: "gate.weight")
        var router = try decoder.router(prefix + "gate.weight", .softmax)
        router.isNormalized = true
        block.feedForward = .experts(
          .init(
            router: router,
            experts: try decoder.experts(
              prefix + "experts.", inner: decoder.inner, modules: ("w1", "w3", "w2"))))
        return block
      })
  }
}
