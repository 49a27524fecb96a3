import ArgumentParser
import EspalierCore
import EspalierPipeline

struct ReportCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "report",
    abstract: "Losses of every matrix before and after every stage, totals and evaluations of the last run.")

  @Argument(help: "The work folder of a run.")
  var work: String

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws {
    let report = try RunReport(work: work)
    if json { return Terminal.out(report.json) }
    Terminal.table(
      [
        "matrix", "pattern", "stage", "loss before", "loss after", "reduction", "gap at most", "swaps",
        "seconds",
      ],
      report.matrices.flatMap { matrix in
        matrix.steps.map { step in
          [
            matrix.name, matrix.pattern, step.stage, Terminal.number(step.lossBefore),
            Terminal.number(step.lossAfter),
            Terminal.percent(
              step.lossBefore.flatMap { before in before > 0 ? step.lossAfter.map { 1 - $0 / before } : nil }),
            Terminal.percent(step.certifiedGap),
            step.swaps.map(String.init) ?? "", step.seconds.map { fixed($0, 2) } ?? "",
          ]
        }
      })
    Terminal.out("")
    ReportTable.show(report)
  }
}

/// The totals of a run, for people.
enum ReportTable {
  /// Experts whose Gram matrices come from few tokens; those with the fewest first.
  private static func showScarceInputs(_ inputs: [RunReport.ScarceInput]) {
    guard !inputs.isEmpty else { return }
    let shrunk = inputs.count { $0.isShrunk }
    Terminal.out(
      "\(inputs.count) inputs of experts saw fewer tokens than they are wide; \(shrunk) were shrunk towards what their expert makes of all tokens"
    )
    for input in inputs.sorted(by: { $0.tokens < $1.tokens }).prefix(5) {
      Terminal.out("  \(input.unit): \(input.tokens) tokens, \(input.columns) wide")
    }
    if inputs.count > 5 { Terminal.out("  and \(inputs.count - 5) more; --json lists them") }
  }

  static func show(_ report: RunReport) {
    Terminal.table(
      [
        "stage", "matrices", "loss before", "loss after", "mean reduction", "of the sum", "gap at most",
        "swaps",
        "seconds",
      ],
      report.totals.map {
        [
          $0.stage, $0.matrices > 0 ? String($0.matrices) : "", Terminal.number($0.lossBefore),
          Terminal.number($0.lossAfter),
          Terminal.percent($0.meanReduction), Terminal.percent($0.totalReduction),
          Terminal.percent($0.certifiedGap),
          $0.swaps.map(String.init) ?? "", fixed($0.seconds, 2),
        ]
      })
    if let most = report.discardedEnergies.max(by: { $0.share < $1.share }) {
      let mean =
        report.discardedEnergies.reduce(0) { $0 + $1.share } / Double(report.discardedEnergies.count)
      Terminal.out(
        "factors of low rank leave \(Terminal.percent(mean)) of the inputs' energy to the diagonal, \(Terminal.percent(most.share)) at most (\(most.unit))"
      )
    }
    showScarceInputs(report.scarceInputs)
    for (stage, result) in report.evaluations {
      for model in ["dense", "pruned"] {
        if let perplexity = result[model]?["perplexity"] {
          Terminal.out(
            "\(stage): \(model) window perplexity \(fixed(perplexity["perplexity"]?.double ?? .nan, 4)) (\(perplexity["windows"]?.integer ?? 0) windows of \(perplexity["length"]?.integer ?? 0) tokens)"
          )
        }
        if let questions = result[model]?["questions"] {
          let normalized = questions["acc_norm"]?.double.map { ", acc_norm \(Terminal.percent($0))" } ?? ""
          Terminal.out(
            "\(stage): \(model) acc \(Terminal.percent(questions["acc"]?.double))\(normalized) (\(questions["questions"]?.integer ?? 0) questions)"
          )
        }
      }
    }
    if let coverage = report.history.coverage { CoverageText.show(coverage) }
    Terminal.out("peak memory \(ByteSize(bytes: report.history.peakMemory))")
  }
}
