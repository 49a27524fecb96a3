import EspalierCore

extension Recipe {
  /// A recipe file that makes the same job with the same paths: overrides are applied, defaults are left out.
  public var effectiveText: String {
    let files = plugins.map { "  - \(RecipeValue.scalar($0, isPlain: true).yaml)\n" }.joined()
    return (files.isEmpty ? "" : "plugins:\n" + files) + "stages:\n" + entries.map(\.text).joined()
  }
}

extension Recipe.Entry {
  fileprivate var text: String {
    let name = descriptor.name
    let id = id == name ? [] : ["id: \(RecipeValue.scalar(id, isPlain: true).yaml)"]
    let lines = id + given.map { "\(RecipeValue.scalar($0.key, isPlain: true).yaml): \($0.value.yaml)" }
    guard !lines.isEmpty else { return "  - \(name)\n" }
    return "  - \(name):\n" + lines.map { "      \($0)\n" }.joined()
  }
}

extension RecipeValue {
  /// The value as YAML on one line.
  fileprivate var yaml: String {
    switch self {
    case .scalar(let text, let isPlain):
      // In quotes it is never a number, so numbers stay as they are.
      isPlain && Self.isSafe(text) ? text : Self.quoted(text.replacing("${", with: "$${"))
    case .list(let values): "[\(values.map(\.yaml).joined(separator: ", "))]"
    case .map(let members):
      "{\(members.map { "\(Self.scalar($0.key, isPlain: true).yaml): \($0.value.yaml)" }.joined(separator: ", "))}"
    }
  }

  /// The text in double quotes. What is not printable or could end a line is escaped.
  private static func quoted(_ text: String) -> String {
    let parts = text.unicodeScalars.map { scalar in
      switch scalar.value {
      case 0x22, 0x5C: return "\\\(scalar)"
      case 0x20..<0x7F, 0xA0..<0x2000, 0x2070..<0xD800, 0xE000..<0xFDD0, 0x1_0000..<0x10_0000:
        return String(scalar)
      default:
        let digits = String(scalar.value, radix: 16)
        return "\\U" + String(repeating: "0", count: 8 - digits.count) + digits
      }
    }
    return "\"\(parts.joined())\""
  }

  /// Whether YAML reads the text as one plain scalar wherever it stands.
  private static func isSafe(_ text: String) -> Bool {
    guard let first = text.utf8.first, text != "-" else { return false }
    return (isPlain(first) || first == UInt8(ascii: "-"))
      && text.utf8.dropFirst().allSatisfy { isPlain($0) || $0 == UInt8(ascii: "-") }
  }

  private static func isPlain(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "."), UInt8(ascii: "/"),
      UInt8(ascii: "+"):
      true
    default: false
    }
  }
}
