import EspalierCore

/// What `config.json` says about a compact checkpoint: the `quantization_config` of compressed-tensors with a `sparsity_config` alone.
public enum CompactMetadata {
  static let member = "quantization_config"

  /// Whether the configuration is that of a quantized checkpoint, rather than of none or of a compact one.
  public static func isQuantized(_ configuration: JSON) -> Bool {
    guard let object = configuration[member]?.object else { return configuration[member] != nil }
    let known: Set = ["quant_method", "version", "sparsity_config", "transform_config"]
    return configuration[member]?["quant_method"]?.string != "compressed-tensors"
      || object.members.contains { !known.contains($0.key) }
      || configuration[member]?["transform_config"]?.object?.members.isEmpty == false
  }
}
