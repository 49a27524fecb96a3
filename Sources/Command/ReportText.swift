import EspalierCore
import EspalierPipeline
import EspalierReport

/// A run's results as text: totals first, then stages, blocks and matrices.
struct ReportText {
  enum Detail {
    /// Totals alone.
    case quiet
    case usual
    /// Also every matrix, and time and memory of every stage against the plan.
    case verbose
  }

  let report: RunReport
  let detail: Detail
  /// Whether to list every matrix.
  var showsMatrices = false

  func show() {
    showTotals()
    guard detail != .quiet else { return }
    showStages()
    showBlocks()
    if showsMatrices || detail == .verbose { showMatrices() }
    showEvaluations()
    showFactors()
    if let coverage = report.history.coverage {
      Terminal.out("")
      CoverageText.show(coverage)
    }
    if report.history.outputs.isEmpty { Terminal.out(NoOutput.place(report.history.work)) }
    for output in report.history.outputs {
      Terminal.out(output.kind.name.padded(to: Self.width) + output.path)
    }
  }

  private static let width = 16

  private func showTotals() {
    let summary = RunSummary(report)
    let history = report.history
    func line(_ name: String, _ value: String, _ detail: String = "") {
      Terminal.out(
        Terminal.styled(name.padded(to: Self.width), .dim) + Terminal.styled(value, .bold)
          + (detail.isEmpty ? "" : "  " + detail))
    }
    line("model", Terminal.clean(summary.title), Terminal.clean(summary.methods))
    if history.state != .finished {
      line("state", history.state.rawValue, Terminal.clean(history.reason ?? ""))
    }
    for (stage, corpus) in report.corpora {
      let record = history.stages.first { $0.id == stage }
      let files = corpus.origin ?? record?.fileNames ?? ""
      line(
        "calibration",
        "\(Figures.grouped(corpus.samples)) windows of \(Figures.grouped(corpus.length)) tokens",
        Terminal.clean([files, RunSummary.draw(record)].filter { !$0.isEmpty }.joined(separator: ", ")))
    }
    if let sparsity = summary.sparsity {
      line(
        "sparsity", Figures.percent(sparsity),
        "of \(Figures.grouped(summary.matrices)) matrices"
          + (summary.sparsityOfAll.map { ", \(Figures.percent($0)) of all parameters" } ?? ""))
    }
    if let perplexity = summary.perplexity {
      let dense = perplexity.dense.map { "\(fixed($0, 3)) -> " } ?? ""
      let change = perplexity.dense.map { ", \(RunSummary.change($0, perplexity.pruned))" } ?? ""
      line("perplexity", dense + fixed(perplexity.pruned, 3), Terminal.clean(perplexity.text) + change)
    }
    if let reduction = summary.reduction {
      line(
        "output error", Figures.percent(reduction) + " less",
        "than with the first masks, mean of the matrices")
    }
    let planned = history.forecast?.stages.compactMap(\.seconds).reduce(0, +) ?? 0
    line(
      "time", Figures.duration(summary.seconds),
      planned > 0 ? "\(Figures.duration(planned)) planned from nothing" : "")
    line(
      "peak memory", "\(ByteSize(bytes: summary.peakMemory))",
      history.forecast.map { "\(ByteSize(bytes: $0.peakMemory)) planned" } ?? "")
  }

  private func showStages() {
    let planned = Dictionary(
      (report.history.forecast?.stages ?? []).map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
    let isVerbose = detail == .verbose
    Terminal.out("")
    Terminal.table(
      [
        "stage", "matrices", "loss before", "loss after", "mean reduction", "of the sum", "gap at most",
        "swaps", "seconds",
      ] + (isVerbose ? ["planned", "buffers", "planned"] : []),
      report.totals.map { total in
        [
          total.stage, total.matrices > 0 ? String(total.matrices) : "", Figures.number(total.lossBefore),
          Figures.number(total.lossAfter), Figures.percent(total.meanReduction),
          Figures.percent(total.totalReduction), Figures.percent(total.certifiedGap),
          total.swaps.map(String.init) ?? "", fixed(total.seconds, 2),
        ]
          + (isVerbose
            ? [
              planned[total.stage]?.seconds.map { fixed($0, 2) } ?? "", "\(ByteSize(bytes: total.buffers))",
              "\(ByteSize(bytes: total.plannedBuffers))",
            ] : [])
      })
  }

  /// One row for each block: the sums of its matrices.
  private func showBlocks() {
    var blocks: [Int: [RunReport.Matrix]] = [:]
    for matrix in report.matrices { blocks[matrix.place.block ?? -1, default: []].append(matrix) }
    guard blocks.values.joined().contains(where: { $0.reduction != nil }) else { return }
    Terminal.out("")
    let rows = blocks.sorted { $0.key < $1.key }.map { block, matrices in
      let reductions = matrices.compactMap(\.reduction)
      let mean = reductions.isEmpty ? nil : reductions.reduce(0, +) / Double(reductions.count)
      let swaps = matrices.flatMap(\.steps).compactMap(\.report.swaps)
      return [
        block < 0 ? "none" : String(block), String(matrices.count),
        Figures.number(matrices.compactMap(\.firstLoss).reduce(0, +)),
        Figures.number(matrices.compactMap(\.lastLoss).reduce(0, +)), Figures.percent(mean),
        swaps.isEmpty ? "" : String(Figures.sum(swaps)),
        fixed(matrices.reduce(0) { $0 + $1.seconds }, 2),
      ] + (Terminal.isStyled ? [Terminal.bar(mean ?? 0)] : [])
    }
    Terminal.table(
      ["block", "matrices", "first loss", "last loss", "mean reduction", "swaps", "seconds"]
        + (Terminal.isStyled ? [""] : []), rows)
  }

  private func showMatrices() {
    Terminal.out("")
    Terminal.table(
      [
        "matrix", "pattern", "stage", "loss before", "loss after", "reduction", "gap at most", "swaps",
        "seconds",
      ],
      report.matrices.flatMap { matrix in
        matrix.steps.map { step in
          [
            Terminal.clean(matrix.name), step.report.pattern.description, step.stage,
            Figures.number(step.report.lossBefore), Figures.number(step.report.lossAfter),
            Figures.percent(step.reduction), Figures.percent(step.report.certifiedGap),
            step.report.swaps.map(String.init) ?? "", step.seconds.map { fixed($0, 2) } ?? "",
          ]
        }
      })
  }

  private func showEvaluations() {
    guard !report.evaluations.isEmpty else { return }
    Terminal.out("")
    for (stage, evaluation) in report.evaluations {
      for line in evaluation.lines { Terminal.out("\(stage): \(Terminal.clean(line))") }
    }
  }

  /// Names experts whose Gram matrices come from few tokens, those with the fewest first, and what factors of low rank leave out.
  private func showFactors() {
    if let most = report.discardedEnergies.max(by: { $0.share < $1.share }) {
      let mean =
        report.discardedEnergies.reduce(0) { $0 + $1.share } / Double(report.discardedEnergies.count)
      Terminal.out(
        "factors of low rank leave \(Figures.percent(mean)) of the inputs' energy to the diagonal, \(Figures.percent(most.share)) at most (\(most.unit))"
      )
    }
    let factors = report.scarceFactors
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
}
