extension Family {
  /// Seed-OSS: Llama with biases of queries, keys and values.
  static let seedOss = Family("seed_oss") { configuration, names in
    var decoder = try Decoder(configuration, names)
    decoder.attentionBias = try configuration.flag("attention_bias", default: true)
    decoder.outputBias = try configuration.flag("attention_out_bias", default: false)
    let rotary = try Rotary(configuration, headSize: decoder.headSize)
    return try decoder.blueprint(blocks: (0..<decoder.count).map { decoder.block($0, rotary: rotary) })
  }
}
