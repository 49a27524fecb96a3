import EspalierCore
import EspalierPipeline

/// A parameter that a plug-in's description declares.
struct PluginParameter: Sendable {
  private enum Kind: String, CaseIterable {
    case number
    case integer
    case flag
    case choice
    case text
  }

  private enum Value: Sendable {
    case number(Double, in: ClosedRange<Double>)
    case integer(Int, in: ClosedRange<Int>)
    case flag(Bool)
    case choice(String, of: [String])
    case text(String)
  }

  let name: String
  /// The default.
  private let value: Value
  private let text: String

  /// - Parameter keys: of the parameter in the description.
  init(name: String, _ keys: inout Parameters) {
    self.name = name
    text = keys.text("text", default: "", "One sentence for `espalier stages`.")
    let kinds = Kind.allCases.map(\.rawValue)
    let kind = Kind(rawValue: keys.word("type", default: nil, of: kinds, "What a value looks like.")) ?? .text
    let fallback = keys.text("default", default: nil, "The value if a recipe gives none.")
    let least = keys.optionalNumber("from", in: -1e300...1e300, "The least number.")
    let most = keys.optionalNumber("to", in: -1e300...1e300, "The largest number.")
    let choices = keys.texts("of", default: [], "The values of a choice.")
    let found: Value? =
      switch kind {
      case .number: Self.number(fallback, least, most)
      case .integer: Self.integer(fallback, least, most)
      case .flag: fallback == "true" ? .flag(true) : fallback == "false" ? .flag(false) : nil
      case .choice: choices.contains(fallback) ? .choice(fallback, of: choices) : nil
      case .text: .text(fallback)
      }
    if found == nil { keys.reject("the default \"\(fallback)\" is not a value of the parameter.") }
    if least != nil || most != nil, kind != .number, kind != .integer {
      keys.reject("only a number or an integer has `from` and `to`.")
    }
    value = found ?? .text(fallback)
  }

  private static func number(_ text: String, _ least: Double?, _ most: Double?) -> Value? {
    let (low, high) = (least ?? -1e300, most ?? 1e300)
    guard let number = Double(text), low <= high, (low...high).contains(number) else { return nil }
    return .number(number, in: low...high)
  }

  private static func integer(_ text: String, _ least: Double?, _ most: Double?) -> Value? {
    // Whole numbers that every language reads exactly.
    let (low, high) = (
      max(least ?? -0x1p53, -0x1p53).rounded(.up), min(most ?? 0x1p53, 0x1p53).rounded(.down)
    )
    guard let number = Int(text), low <= high, (Int(low)...Int(high)).contains(number) else { return nil }
    return .integer(number, in: Int(low)...Int(high))
  }

  /// The value in a recipe.
  func read(_ keys: inout Parameters) -> JSON {
    switch value {
    case .number(let value, let range): .number(keys.number(name, default: value, in: range, text))
    case .integer(let value, let range): .integer(keys.integer(name, default: value, in: range, text))
    case .flag(let value): .bool(keys.flag(name, default: value, text))
    case .choice(let value, let choices): .string(keys.word(name, default: value, of: choices, text))
    case .text(let value): .string(keys.text(name, default: value, text))
    }
  }
}
