#if canImport(Glibc)
  import Glibc
#endif

/// Numbers as people read them.
public enum Figures {
  /// `52.7 %`; empty if there is no number.
  public static func percent(_ share: Double?, digits: Int = 1) -> String {
    share.map { fixed($0 * 100, digits) + " %" } ?? ""
  }

  /// Four significant digits; empty if there is no number.
  public static func number(_ value: Double?) -> String {
    guard let value else { return "" }
    guard value != 0, value.isFinite else { return "\(value)" }
    let exponent = Int(log10(abs(value)).rounded(.down))
    if exponent > 5 || exponent < -3 { return "\(fixed(value / pow(10, Double(exponent)), 3))e\(exponent)" }
    return fixed(value, max(0, 3 - exponent))
  }

  /// `4.20 s`, `17 min`, `3 h 20 min`.
  public static func duration(_ seconds: Double) -> String {
    guard seconds.isFinite, abs(seconds) < 1e15 else { return "\(seconds) s" }
    if seconds < 10 { return fixed(seconds, 2) + " s" }
    if seconds < 120 { return fixed(seconds, 0) + " s" }
    let minutes = Int(seconds / 60)
    return minutes < 120 ? "\(minutes) min" : "\(minutes / 60) h \(minutes % 60) min"
  }

  /// `6,738,415,616`.
  public static func grouped(_ number: Int) -> String {
    let digits = Array(String(number))
    return digits.indices.map { index in
      let isStart = index > 0 && (digits.count - index) % 3 == 0 && digits[index - 1] != "-"
      return (isStart ? "," : "") + String(digits[index])
    }.joined()
  }

  /// The sum; the largest number if it is too large. Numbers may come from a damaged file.
  public static func sum(_ numbers: some Sequence<Int>) -> Int {
    numbers.reduce(0) { total, number in
      let (sum, overflow) = total.addingReportingOverflow(number)
      return overflow ? .max : sum
    }
  }
}
