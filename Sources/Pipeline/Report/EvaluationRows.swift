import EspalierCore

extension EvaluationReport {
  /// One measure of the pruned model beside that of the dense one, for tables.
  public struct Row: Sendable {
    /// The text or the task.
    public let subject: String
    /// For example `perplexity, 40 windows of 2048 tokens`.
    public let measure: String
    /// Nil if the dense model was not measured, or the measure compares both.
    public let dense: String?
    public let pruned: String
  }

  public var rows: [Row] {
    perplexityRows + taskRows + comparisons.flatMap(\.rows)
  }

  private var perplexityRows: [Row] {
    pruned.perplexities.map { own in
      let other = dense?.perplexities.first { $0.text == own.text }
      return Row(
        subject: own.text,
        measure:
          "perplexity, \(Figures.grouped(own.windows)) windows of \(Figures.grouped(own.length)) tokens",
        dense: other?.value, pruned: own.value)
    }
  }

  private var taskRows: [Row] {
    pruned.tasks.flatMap { own in
      let other = dense?.tasks.first { $0.task == own.task }
      let shots = own.shots > 0 ? ", \(own.shots)-shot" : ""
      return own.measures.map { name in
        Row(
          subject: own.task, measure: "\(name), \(Figures.grouped(own.rows)) rows\(shots)",
          dense: other?.value(name), pruned: own.value(name) ?? "")
      }
    }
  }
}

extension PerplexityReport {
  fileprivate var value: String { "\(fixed(perplexity, 3)) +- \(fixed(error, 3))" }
}

extension TaskReport {
  /// The names of its measures, without their standard errors.
  public var measures: [String] { metrics.members.map(\.key).filter { !$0.hasSuffix("_stderr") } }

  /// A measure with its standard error.
  fileprivate func value(_ name: String) -> String? {
    guard let value = metrics[name]?.double else { return nil }
    let isShare = name.hasPrefix("acc")
    func shown(_ value: Double) -> String { isShare ? fixed(value * 100, 1) : fixed(value, 3) }
    let error = metrics[name + "_stderr"]?.double.map { " +- \(shown($0))" } ?? ""
    return shown(value) + error + (isShare ? " %" : "")
  }
}

extension ComparisonReport {
  fileprivate var rows: [EvaluationReport.Row] {
    func row(_ measure: String, _ value: String?) -> EvaluationReport.Row? {
      value.map { .init(subject: text, measure: measure, dense: nil, pruned: $0) }
    }
    return [
      row("correlation of the outputs with the dense model's", correlation.map { fixed($0, 5) }),
      row(
        "KL divergence from the dense model",
        divergence.map { "\(fixed($0, 4)) +- \(fixed(divergenceError ?? 0, 4))" }),
      row("same first choice as the dense model", agreement.map { Figures.percent($0) }),
    ].compactMap(\.self)
  }
}
