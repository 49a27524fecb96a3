extension Family {
  /// ERNIE 4.5: Llama that rotates adjacent pairs.
  static let ernie = Family("ernie4_5") { configuration, names in
    var decoder = try Decoder(configuration, names, tied: true, epsilon: 1e-5)
    let bias = try configuration.flag("use_bias", default: false)
    decoder.attentionBias = bias
    decoder.outputBias = bias
    decoder.mlpBias = bias
    var rotary = try Rotary(configuration, headSize: decoder.headSize, usualTheta: 500_000)
    rotary.isInterleaved = true
    return try decoder.blueprint(blocks: (0..<decoder.count).map { decoder.block($0, rotary: rotary) })
  }
}
