import EspalierCore
import EspalierPipeline

/// What is pruned of a checkpoint and what is not, in a few lines.
enum CoverageText {
  /// Kinds that are named one by one.
  private static let mostKinds = 6
  /// Matrices of a kind, and tensors of a warning, that are named one by one.
  private static let mostNames = 4
  private static let mostWarnings = 20

  static func show(_ coverage: Coverage) {
    for line in lines(coverage) { Terminal.out(line) }
    for line in warnings(coverage) { Terminal.error(line) }
  }

  static func lines(_ coverage: Coverage) -> [String] {
    var lines = [
      "parameters      \(grouped(coverage.parameters)) in \(grouped(coverage.tensors)) tensors of the checkpoint"
    ]
    func add(_ label: String, _ parts: [Coverage.Part], _ things: String, listed: Bool = true) {
      let sum = parts.reduce((count: 0, parameters: 0)) {
        (total($0.count, $1.count), total($0.parameters, $1.parameters))
      }
      lines.append(
        label.padded(to: 16)
          + (parts.isEmpty
            ? "none"
            : "\(grouped(sum.parameters)) (\(share(sum.parameters, coverage))) in \(grouped(sum.count)) \(things)")
      )
      guard listed else { return }
      for part in parts.prefix(mostKinds) {
        lines.append("  \(name(part))  \(share(part.parameters, coverage))")
      }
      if parts.count > mostKinds { lines.append("  and \(parts.count - mostKinds) other kinds") }
    }
    if let pruned = coverage.pruned {
      add("pruned", pruned, "matrices", listed: false)
      add("left dense", coverage.left, "matrices (targets, ignore)")
    } else {
      add("can be pruned", coverage.left, "matrices", listed: false)
    }
    add("never pruned", coverage.fixed, "tensors")
    if !coverage.unused.isEmpty { add("not computed", coverage.unused, "tensors, which are copied") }
    return lines
  }

  static func warnings(_ coverage: Coverage) -> [String] {
    var lines = coverage.missed.prefix(mostWarnings).map {
      "warning: \(shown($0.name)) \($0.shape) lies in a block, but the model is computed without it; it is copied, not pruned."
    }
    if coverage.missed.count > mostWarnings {
      lines.append(
        "warning: and \(coverage.missed.count - mostWarnings) other tensors of blocks; see --json.")
    }
    return lines
  }

  private static func name(_ part: Coverage.Part) -> String {
    guard !part.members.isEmpty else {
      return shown(part.name) + (part.count > 1 ? " (\(grouped(part.count)))" : "")
    }
    let names = part.members.prefix(mostNames).map(shown).joined(separator: ", ")
    let more = part.members.count - mostNames
    return names + (more > 0 ? " and \(more) others" : "")
  }

  private static func share(_ parameters: Int, _ coverage: Coverage) -> String {
    Figures.percent(Double(parameters) / Double(max(1, coverage.parameters)))
  }

  /// Numbers may come from a damaged file.
  private static func total(_ left: Int, _ right: Int) -> Int {
    let (sum, overflow) = left.addingReportingOverflow(right)
    return overflow ? Int.max : sum
  }

  /// `6,738,415,616`.
  private static func grouped(_ number: Int) -> String {
    let digits = Array(String(number))
    return digits.indices.map { index in
      let isStart = index > 0 && (digits.count - index) % 3 == 0 && digits[index - 1] != "-"
      return (isStart ? "," : "") + String(digits[index])
    }.joined()
  }

  /// A name from a file, with control characters as escapes.
  private static func shown(_ name: String) -> String {
    name.unicodeScalars.prefix(200).map {
      $0.properties.generalCategory == .control ? $0.escaped(asASCII: true) : String($0)
    }.joined()
  }
}
