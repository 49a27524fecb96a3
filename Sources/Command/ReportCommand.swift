import ArgumentParser
import EspalierCore
import EspalierPipeline

struct ReportCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "report",
    abstract: "Losses of every matrix before and after every stage, totals and evaluations of the last run.")

  @Argument(help: "The work folder of a run.", transform: givenPath)
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
          let (before, after) = (step.report.lossBefore, step.report.lossAfter)
          let reduction = before.flatMap { before in before > 0 ? after.map { 1 - $0 / before } : nil }
          return [
            matrix.name, step.report.pattern.description, step.stage, Terminal.number(before),
            Terminal.number(after), Terminal.percent(reduction), Terminal.percent(step.report.certifiedGap),
            step.report.swaps.map(String.init) ?? "", step.seconds.map { fixed($0, 2) } ?? "",
          ]
        }
      })
    Terminal.out("")
    ReportTable.show(report)
  }
}

/// Prints the totals of a run.
enum ReportTable {
  /// Names experts whose Gram matrices come from few tokens; those with the fewest first.
  private static func showScarceFactors(_ factors: [(unit: String, report: FactorReport)]) {
    guard !factors.isEmpty else { return }
    let shrunk = factors.count { $0.report.isShrunk }
    Terminal.out(
      "\(factors.count) inputs of experts saw fewer tokens than they are wide; to \(shrunk) of them the inputs of all tokens were added"
    )
    let ordered = factors.map { (tokens: $0.report.routedTokens ?? 0, factor: $0) }
      .sorted { $0.tokens < $1.tokens }
    for (tokens, factor) in ordered.prefix(5) {
      Terminal.out("  \(factor.unit): \(tokens) tokens, \(factor.report.columns) wide")
    }
    if factors.count > 5 { Terminal.out("  and \(factors.count - 5) more; --json lists them") }
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
    showScarceFactors(report.scarceFactors)
    for (stage, evaluation) in report.evaluations {
      for line in evaluation.lines { Terminal.out("\(stage): \(line)") }
    }
    for (_, corpus) in report.corpora { Terminal.out("calibration     \(corpus)") }
    if let coverage = report.history.coverage { CoverageText.show(coverage) }
    Terminal.out("peak memory     \(ByteSize(bytes: report.history.peakMemory))")
    if report.history.outputs.isEmpty { Terminal.out(NoOutput.place(report.history.work)) }
    for output in report.history.outputs {
      Terminal.out(output.kind.name.padded(to: 16) + output.path)
    }
  }
}
