extension Family {
  /// Llama 1 to 3.x, and other models with this `model_type`.
  static let llama = Family("llama") { configuration, names in
    let decoder = try Decoder(configuration, names)
    let rotary = try Rotary(configuration, headSize: decoder.headSize)
    return try decoder.blueprint(blocks: (0..<decoder.count).map { decoder.block($0, rotary: rotary) })
  }
}
