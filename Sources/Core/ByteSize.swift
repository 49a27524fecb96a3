/// A number of bytes as people write it: `512MiB`, `1.5GiB`, `800000`.
public struct ByteSize: Hashable, Sendable, Comparable {
  public let bytes: Int

  public init(bytes: Int) { self.bytes = bytes }

  /// Reads a positive number with an optional unit (B, KB, MB, GB, TB, KiB, MiB, GiB, TiB; case ignored).
  public init?(_ text: String) {
    let lower = text.lowercased().filter { $0 != " " }
    let digits = lower.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
    let units: [String: Double] = [
      "": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "k": 1024, "m": 1_048_576,
      "g": 1_073_741_824, "t": 1_099_511_627_776, "kib": 1024, "mib": 1_048_576, "gib": 1_073_741_824,
      "tib": 1_099_511_627_776,
    ]
    guard let number = Double(digits), let unit = units[String(lower.dropFirst(digits.count))],
      number * unit >= 1, number * unit < 1e18
    else { return nil }
    bytes = Int(number * unit)
  }

  public static func < (left: ByteSize, right: ByteSize) -> Bool { left.bytes < right.bytes }
}

extension ByteSize: CustomStringConvertible {
  /// Three significant digits with a binary unit.
  public var description: String {
    var value = Double(bytes)
    var unit = "B"
    for next in ["KiB", "MiB", "GiB", "TiB"] where value >= 1024 {
      value /= 1024
      unit = next
    }
    return unit == "B" ? "\(bytes) B" : "\(fixed(value, value < 10 ? 2 : value < 100 ? 1 : 0)) \(unit)"
  }
}

/// `value` with exactly `digits` digits after the point; "nan" or "inf" if it is not finite.
public func fixed(_ value: Double, _ digits: Int) -> String {
  guard value.isFinite, abs(value) < 1e15 else { return "\(value)" }
  var scale = 1.0
  for _ in 0..<digits { scale *= 10 }
  let scaled = (abs(value) * scale).rounded()
  let whole = (scaled / scale).rounded(.down)
  let sign = value < 0 && scaled > 0 ? "-" : ""
  guard digits > 0 else { return sign + "\(Int(scaled))" }
  let fraction = String(Int(scaled - whole * scale))
  return sign + "\(Int(whole))." + String(repeating: "0", count: max(0, digits - fraction.count)) + fraction
}
