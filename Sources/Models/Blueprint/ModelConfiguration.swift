import EspalierCore
import EspalierKernels

/// Typed access to `config.json`; every error names the key.
struct ModelConfiguration {
  let json: JSON
  /// The keys of the sections that this one is in, or nil for the whole file.
  private let section: String?

  init(_ json: JSON, section: String? = nil) {
    self.json = json
    self.section = section
  }

  /// A copy with values for keys that are absent or null.
  func filled(_ defaults: [(key: String, value: JSON)]) -> ModelConfiguration {
    let members = json.object?.members ?? []
    let missing = defaults.filter { json[$0.key] == nil }
    let kept = members.filter { member in !missing.contains { $0.key == member.key } }
    return ModelConfiguration(.object(JSONObject(kept + missing)), section: section)
  }

  /// A copy without a key.
  func without(_ key: String) -> ModelConfiguration {
    ModelConfiguration(
      .object(JSONObject((json.object?.members ?? []).filter { $0.key != key })), section: section)
  }

  /// The type of each layer.
  ///
  /// - Parameter usual: the type of each layer if the configuration has no `layer_types`.
  func layerTypes(_ count: Int, usual: (Int) throws -> String) throws -> [String] {
    guard let types = try texts("layer_types") else { return try (0..<count).map(usual) }
    guard types.count == count else {
      throw EspalierError.badInput(
        "layer_types must name a type for each of \(count) layers.", subject: section)
    }
    return types
  }

  /// The mask of a layer of this type: `sliding_attention` or `full_attention`.
  func mask(_ layerType: String, window: Int?) throws -> AttentionShape.Mask {
    switch layerType {
    case "full_attention", "global": return .causal
    case "sliding_attention", "local":
      guard let window else {
        throw EspalierError.badInput("sliding_window is missing.", subject: section)
      }
      return .window(window)
    default: throw unsupported("layer_types", layerType, supported: "full_attention and sliding_attention")
    }
  }

  /// A size: a positive integer of at most 2^31.
  func size(_ key: String, default fallback: Int? = nil) throws -> Int {
    guard let value = json[key] else {
      if let fallback { return fallback }
      throw EspalierError.badInput("\(key) is missing.", subject: section)
    }
    guard let number = value.integer, number > 0, number <= 1 << 31 else {
      throw EspalierError.badInput(
        "\(key) must be a positive whole number, not \(value.text.prefix(40)).", subject: section)
    }
    return number
  }

  func number(_ key: String, default fallback: Double? = nil) throws -> Double {
    guard let value = json[key] else {
      if let fallback { return fallback }
      throw EspalierError.badInput("\(key) is missing.", subject: section)
    }
    guard let number = value.double, number.isFinite else {
      throw EspalierError.badInput("\(key) must be a number, not \(value.text.prefix(40)).", subject: section)
    }
    return number
  }

  /// A number, or nil if it is absent or null.
  func optionalNumber(_ key: String) throws -> Double? {
    guard json[key] != nil else { return nil }
    return try number(key)
  }

  /// A size, or nil if it is absent or null.
  func optionalSize(_ key: String) throws -> Int? {
    guard json[key] != nil else { return nil }
    return try size(key)
  }

  /// The size under the first of these names that exists.
  func size(_ keys: [String]) throws -> Int {
    for key in keys { if let size = try optionalSize(key) { return size } }
    throw EspalierError.badInput("\(keys.joined(separator: " or ")) is missing.", subject: section)
  }

  /// A list of numbers.
  func numbers(_ key: String) throws -> [Double] {
    guard let values = json[key]?.array?.map(\.double), !values.contains(where: { $0 == nil }) else {
      throw EspalierError.badInput("\(key) must be a list of numbers.", subject: section)
    }
    return values.compactMap(\.self)
  }

  /// A list of strings; nil if it is absent or null.
  func texts(_ key: String) throws -> [String]? {
    guard let value = json[key] else { return nil }
    guard let values = value.array?.map(\.string), !values.contains(where: { $0 == nil }) else {
      throw EspalierError.badInput("\(key) must be a list of strings.", subject: section)
    }
    return values.compactMap(\.self)
  }

  func flag(_ key: String, default fallback: Bool) throws -> Bool {
    guard let value = json[key] else { return fallback }
    guard let flag = value.bool else {
      throw EspalierError.badInput(
        "\(key) must be true or false, not \(value.text.prefix(40)).", subject: section)
    }
    return flag
  }

  func text(_ key: String, default fallback: String) throws -> String {
    guard let value = json[key] else { return fallback }
    guard let text = value.string else {
      throw EspalierError.badInput("\(key) must be a string, not \(value.text.prefix(40)).", subject: section)
    }
    return text
  }

  /// A nested object; nil if it is absent or null.
  func section(_ key: String) throws -> ModelConfiguration? {
    guard let value = json[key] else { return nil }
    guard value.object != nil else {
      throw EspalierError.badInput(
        "\(key) must be an object, not \(value.text.prefix(40)).", subject: section)
    }
    return ModelConfiguration(value, section: section.map { "\($0): \(key)" } ?? key)
  }

  /// The error for an unsupported value.
  func unsupported(_ key: String, _ value: String, supported: String) -> EspalierError {
    .badInput("\(key) is \"\(value)\"; this version computes with \(supported).", subject: section)
  }
}
