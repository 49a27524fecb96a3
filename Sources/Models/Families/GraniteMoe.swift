extension Family {
  /// Granite with stacked experts.
  static let graniteMoe = Family("granitemoe") { configuration, names in
    let decoder = try Decoder(configuration, names)
    let rotary = try Rotary(configuration, headSize: decoder.headSize)
    return try decoder.granite(
      (0..<decoder.count).map { index in
        var block = decoder.block(index, rotary: rotary)
        let prefix = block.prefix + "block_sparse_moe."
        let stack = ExpertStack(prefix: prefix, input: "input_linear.weight", down: "output_linear.weight")
        block.feedForward = .experts(
          .init(
            router: try decoder.router(prefix + "router.layer.weight", .softmaxOfChosen),
            experts: try decoder.experts(stack, inner: decoder.inner)))
        return block
      })
  }
}
