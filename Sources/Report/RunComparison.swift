import EspalierCore
import EspalierPipeline

/// Two runs side by side.
public struct RunComparison: Sendable {
  /// One number of both runs; nil if a run has none.
  public struct Row: Sendable {
    public enum Unit: Sendable {
      case number, share, seconds, bytes
    }

    public let name: String
    public let first: Double?
    public let second: Double?
    public let unit: Unit

    /// `second / first - 1`, or for shares `second - first`.
    public var change: Double? {
      guard let first, let second else { return nil }
      if unit == .share { return second - first }
      return first != 0 ? second / first - 1 : nil
    }

    public func shown(_ value: Double?) -> String {
      guard let value else { return "" }
      switch unit {
      case .number: return Figures.number(value)
      case .share: return Figures.percent(value)
      case .seconds: return Figures.duration(value)
      case .bytes: return "\(ByteSize(bytes: Int(value)))"
      }
    }

    /// `+4.2 %`; of shares `+4.2 points`.
    public var shownChange: String {
      guard let change else { return "" }
      let sign = change < 0 ? "" : "+"
      return unit == .share ? "\(sign)\(fixed(change * 100, 1)) points" : sign + Figures.percent(change)
    }
  }

  /// Rows that belong together.
  public struct Group: Sendable {
    public let name: String
    public let rows: [Row]
  }

  public let names: (first: String, second: String)
  public let titles: (first: String, second: String)
  public let groups: [Group]

  public init(_ first: RunReport, _ second: RunReport, names: (String, String)) {
    self.names = names
    let (one, two) = (RunSummary(first), RunSummary(second))
    titles = (one.title, two.title)
    groups = [
      Group(
        name: "totals",
        rows: [
          Row(name: "sparsity", first: one.sparsity, second: two.sparsity, unit: .share),
          Row(name: "output error removed", first: one.reduction, second: two.reduction, unit: .share),
          Row(name: "time", first: one.seconds, second: two.seconds, unit: .seconds),
          Row(
            name: "memory", first: Double(one.peakMemory), second: Double(two.peakMemory), unit: .bytes),
        ]),
      Group(name: "measured", rows: Self.measured(first, second)),
      Group(name: "error left, by kind of matrix", rows: Self.kinds(first, second)),
      Group(name: "error after each stage", rows: Self.stages(first, second, .number) { $0.lossAfter }),
      Group(name: "time of each stage", rows: Self.stages(first, second, .seconds) { $0.seconds }),
    ].filter { !$0.rows.isEmpty }
  }

  private static func measured(_ first: RunReport, _ second: RunReport) -> [Row] {
    func values(_ report: RunReport) -> [(name: String, value: Double, unit: Row.Unit)] {
      report.evaluations.flatMap { _, evaluation in
        evaluation.models.flatMap { model, scores in
          scores.perplexities.map { ("\(model) perplexity, \($0.text)", $0.perplexity, Row.Unit.number) }
            + scores.tasks.flatMap { task in
              task.measures.compactMap { name in
                task.metrics[name]?.double.map {
                  ("\(model) \(task.task), \(name)", $0, name.hasPrefix("acc") ? .share : .number)
                }
              }
            }
        }
      }
    }
    return merged(values(first), values(second))
  }

  private static func kinds(_ first: RunReport, _ second: RunReport) -> [Row] {
    func values(_ report: RunReport) -> [(name: String, value: Double, unit: Row.Unit)] {
      report.kinds.compactMap { kind in
        let losses = report.matrices.filter { $0.place.kind == kind }.compactMap(\.lastLoss)
        return losses.isEmpty ? nil : (kind, losses.reduce(0, +), .number)
      }
    }
    return merged(values(first), values(second))
  }

  private static func stages(
    _ first: RunReport, _ second: RunReport, _ unit: Row.Unit, _ value: (RunReport.Total) -> Double?
  ) -> [Row] {
    func values(_ report: RunReport) -> [(name: String, value: Double, unit: Row.Unit)] {
      report.totals.compactMap { total in value(total).map { (total.stage, $0, unit) } }
    }
    return merged(values(first), values(second))
  }

  /// Rows of both, in the order of the first.
  private static func merged(
    _ first: [(name: String, value: Double, unit: Row.Unit)],
    _ second: [(name: String, value: Double, unit: Row.Unit)]
  ) -> [Row] {
    let theirs = Dictionary(second.map { ($0.name, $0.value) }, uniquingKeysWith: { first, _ in first })
    let known = Set(first.map(\.name))
    return first.map { Row(name: $0.name, first: $0.value, second: theirs[$0.name], unit: $0.unit) }
      + second.filter { !known.contains($0.name) }.map {
        Row(name: $0.name, first: nil, second: $0.value, unit: $0.unit)
      }
  }

  public var json: JSON {
    [
      "first": .string(names.first), "second": .string(names.second),
      "groups": .array(
        groups.map { group in
          [
            "name": .string(group.name),
            "rows": .array(
              group.rows.map {
                [
                  "name": .string($0.name), "first": .optional($0.first), "second": .optional($0.second),
                  "change": .optional($0.change),
                ]
              }),
          ]
        }),
    ]
  }

  public func page() -> ComparisonPage { ComparisonPage(self) }
}
