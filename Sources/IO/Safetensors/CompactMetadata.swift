import EspalierCore

/// What `config.json` says about a compact checkpoint: the `quantization_config` of compressed-tensors with a `sparsity_config` alone.
public enum CompactMetadata {
  private static let member = "quantization_config"

  /// Whether the configuration is that of a quantized checkpoint, rather than of none or of a compact one.
  public static func isQuantized(_ configuration: JSON) -> Bool {
    guard let object = configuration[member]?.object else { return configuration[member] != nil }
    let known: Set = ["quant_method", "version", "sparsity_config", "transform_config"]
    return configuration[member]?["quant_method"]?.string != "compressed-tensors"
      || object.members.contains { !known.contains($0.key) }
      || configuration[member]?["transform_config"]?.object?.members.isEmpty == false
  }

  /// The method of quantization that a configuration names, as `gptq`.
  public static func method(_ configuration: JSON) -> String? {
    configuration[member]?["quant_method"]?.string.map { String($0.prefix(40)) }
  }

  /// The configuration with the description of a compact form, as compressed-tensors writes it.
  ///
  /// - Parameters:
  ///   - sparsity: share of zeros in the compact matrices.
  ///   - ignored: modules with dense matrices.
  public static func added(
    to configuration: JSON, format: String, structure: String, sparsity: Double, ignored: [String]
  ) -> JSON? {
    guard let object = (removed(from: configuration) ?? configuration).object else { return nil }
    let sparsity: JSON = [
      "format": .string(format), "global_sparsity": .number(sparsity),
      "sparsity_structure": .string(structure),
      "targets": ["Linear"], "ignore": .array(ignored.map(JSON.string)),
    ]
    let description: JSON = [
      "quant_method": "compressed-tensors", "version": "0.14.0", "sparsity_config": sparsity,
      "transform_config": .object(JSONObject()),
    ]
    return .object(JSONObject(object.members + [(key: member, value: description)]))
  }

  /// The configuration without the description of a compact form; nil if it has none.
  public static func removed(from configuration: JSON) -> JSON? {
    guard configuration[member] != nil, !isQuantized(configuration), let object = configuration.object else {
      return nil
    }
    return .object(JSONObject(object.members.filter { $0.key != member }))
  }
}
