import EspalierKernels

extension Family {
  /// Granite: Llama with multipliers of embeddings, scores, residuals and logits.
  static let granite = Family("granite") { configuration, names in
    let decoder = try Decoder(configuration, names)
    let rotary = try Rotary(configuration, headSize: decoder.headSize)
    return try decoder.granite((0..<decoder.count).map { decoder.block($0, rotary: rotary) })
  }
}

extension Decoder {
  /// A model of blocks with the multipliers of Granite.
  func granite(_ blocks: [Blueprint.Block]) throws -> Blueprint {
    let scale = try Float(configuration.number("attention_multiplier", default: 1))
    let residual = try Float(configuration.number("residual_multiplier", default: 1))
    var blueprint = try blueprint(
      blocks: blocks.map {
        var block = $0
        block.residualScale = residual
        block.withAttention { $0.shape.scale = scale }
        return block
      })
    blueprint.embedding.scale = try Float(configuration.number("embedding_multiplier", default: 1))
    blueprint.ending.scale = try 1 / Float(configuration.number("logits_scaling", default: 1))
    return blueprint
  }
}
