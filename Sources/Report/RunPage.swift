import EspalierCore
import EspalierIO
import EspalierPipeline

/// The report of one run as a page that needs nothing but itself: no network, no script.
public struct RunPage {
  private let content: Content

  /// - Parameter work: the work folder, in which the masks are.
  /// - Throws: an I/O error if it cannot be read.
  public init(_ report: RunReport, work: String) throws {
    content = try Content(report, work: work)
  }

  /// - Throws: an internal fault if the template is wrong.
  public func html() throws -> String { try Page.render(RunPageTemplate.text, content) }
}

/// What the template names.
private struct Content {
  struct Paper {
    let name: String
    let address: String
  }

  struct Step {
    let text: String
    let papers: [Paper]
  }

  struct Fact {
    let name: String
    let value: String
  }

  /// A stage with what it took; shares are in per cent of the longest.
  struct StageTime {
    let stage: String
    let units: String
    let time: String
    let timeShare: String
    let planned: String
    let plannedShare: String
    let hasPlan: Bool
    let memory: String
    let plannedMemory: String
  }

  struct StageError {
    let stage: String
    let matrices: String
    let before: String
    let after: String
    let mean: String
    let ofSum: String
    let gap: String
    let swaps: String
  }

  struct MatrixRow {
    /// As HTML.
    let name: String
    let pattern: String
    let value: String
    let share: String
    let detail: String
  }

  struct ExpertBlock {
    let block: String
    let few: String
    let all: String
    let fewest: String
    let width: String
  }

  struct CoverageRow {
    /// As HTML.
    let name: String
    let kind: String
    let count: String
    let parameters: String
    let share: String
    let width: String
  }

  let title: String
  let model: String
  let goal: String?
  let state: String
  let isFinished: Bool
  let reason: String?
  let started: String?
  let version: String?
  let tiles: [Page.Tile]
  let steps: [Step]
  let facts: [Fact]
  let recipe: String?
  let measures: [Page.Measure]
  let heatMap: String
  let hasHeatMap: Bool
  let hasWorse: Bool
  let panels: [ErrorCurves.Panel]
  let errors: [StageError]
  let hasSwaps: Bool
  let hasGaps: Bool
  let times: [StageTime]
  let hasPlannedTimes: Bool
  let memory: String
  let experts: [ExpertBlock]
  let expertText: String?
  let worst: [MatrixRow]
  let slowest: [MatrixRow]
  let masks: [MaskPicture]
  let coverage: [CoverageRow]
  let glossary = Glossary.entries

  private static let mostRows = 8
  private static let mostMasks = 8

  init(_ report: RunReport, work: String) throws {
    let history = report.history
    let summary = RunSummary(report)
    model = HTML.clean(summary.model)
    goal = summary.patterns.isEmpty ? nil : summary.patterns
    title = HTML.clean(summary.title)
    (state, isFinished) = (history.state.rawValue, history.state == .finished)
    reason = history.reason.map(HTML.clean)
    // 2026-11-28T13:43:04Z
    started = history.startTime.map {
      HTML.clean($0.replacing("T", with: " ").replacing("Z", with: " UTC"))
    }
    version = history.start["version"]?.string.map(HTML.clean)
    tiles = summary.tiles
    steps = history.stages.compactMap(\.step).map { step in
      Step(
        text: HTML.clean(step.text), papers: step.papers.map { Paper(name: $0.name, address: $0.address) })
    }
    facts = Self.facts(report)
    recipe = history.recipe.map(HTML.clean)
    measures = report.evaluations.flatMap { $0.report.rows.map(Page.Measure.init) }
    let map = HeatMap(report)
    (heatMap, hasHeatMap, hasWorse) = (map?.svg ?? "", map != nil, (map?.range.least ?? 0) < 0)
    panels = ErrorCurves(report).panels
    let changed = report.totals.filter { $0.lossAfter != nil }
    errors = changed.map { total in
      StageError(
        stage: HTML.clean(total.stage), matrices: Figures.grouped(total.matrices),
        before: Figures.number(total.lossBefore), after: Figures.number(total.lossAfter),
        mean: Figures.percent(total.meanReduction), ofSum: Figures.percent(total.totalReduction),
        gap: Figures.percent(total.certifiedGap), swaps: total.swaps.map(Figures.grouped) ?? "")
    }
    hasSwaps = changed.contains { $0.swaps != nil }
    hasGaps = changed.contains { $0.certifiedGap != nil }
    (times, hasPlannedTimes) = Self.times(report)
    memory =
      "The process held \(ByteSize(bytes: history.peakMemory)) at most"
      + (history.forecast.map { "; \(ByteSize(bytes: $0.peakMemory)) were planned." } ?? ".")
    (experts, expertText) = Self.experts(report)
    (worst, slowest) = (Self.worst(report), Self.slowest(report))
    masks = try MaskPicture.pictures(of: report, work: work, most: Self.mostMasks)
    coverage = Self.coverage(history.coverage)
  }

  /// What was worked on, and with what.
  private static func facts(_ report: RunReport) -> [Fact] {
    let history = report.history
    var facts: [Fact] = []
    for (stage, corpus) in report.corpora {
      let record = history.stages.first { $0.id == stage }
      facts.append(
        Fact(
          name: "calibration text",
          value: HTML.clean(corpus.origin ?? record?.fileNames ?? "")))
      facts.append(
        Fact(
          name: "draw",
          value:
            "\(Figures.grouped(corpus.samples)) windows of \(Figures.grouped(corpus.length)) tokens, \(HTML.clean(RunSummary.draw(record)))"
        ))
    }
    for (_, allocation) in report.allocations {
      facts.append(
        Fact(
          name: "allocation",
          value:
            "\(HTML.clean(allocation.method)), \(Figures.percent(allocation.leastSparsity)) to \(Figures.percent(allocation.mostSparsity)) of a matrix pruned, \(Figures.percent(allocation.meanSparsity)) of all"
        ))
    }
    let threads = history.start["threads"]?.integer.map { "\($0) threads" }
    let limit = history.start["memory"]?.integer.map { "a limit of \(ByteSize(bytes: $0))" }
    facts.append(
      Fact(name: "machine", value: [threads, limit].compactMap(\.self).joined(separator: ", ")))
    facts += history.outputs.map { Fact(name: $0.kind.name, value: HTML.clean($0.path)) }
    return facts.filter { !$0.value.isEmpty }
  }

  private static func times(_ report: RunReport) -> ([StageTime], Bool) {
    let planned = Dictionary(
      (report.history.forecast?.stages ?? []).map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
    let seconds = report.totals.map(\.seconds) + planned.values.compactMap(\.seconds)
    let longest = max(seconds.max() ?? 0, 1e-9)
    let times = report.totals.map { total in
      let plan = planned[total.stage]?.seconds
      return StageTime(
        stage: HTML.clean(total.stage), units: Figures.grouped(total.units),
        time: Figures.duration(total.seconds), timeShare: Page.width(total.seconds, of: longest),
        planned: plan.map(Figures.duration) ?? "", plannedShare: Page.width(plan ?? 0, of: longest),
        hasPlan: plan != nil, memory: "\(ByteSize(bytes: total.buffers))",
        plannedMemory: "\(ByteSize(bytes: total.plannedBuffers))")
    }
    return (times, planned.values.contains { $0.seconds != nil })
  }

  private static func experts(_ report: RunReport) -> ([ExpertBlock], String?) {
    let routed = report.factors.filter { $0.report.routedTokens != nil }
    guard !routed.isEmpty else { return ([], nil) }
    func block(_ unit: String) -> String {
      unit.split(separator: "/").first { Int($0) != nil }.map(String.init) ?? ""
    }
    var names: [String] = []
    for factor in routed where !names.contains(block(factor.unit)) { names.append(block(factor.unit)) }
    let rows = names.compactMap { name -> ExpertBlock? in
      let members = routed.filter { block($0.unit) == name }
      guard let fewest = members.min(by: { ($0.report.routedTokens ?? 0) < ($1.report.routedTokens ?? 0) })
      else { return nil }
      let few = members.count { $0.report.routedTokens ?? 0 < $0.report.columns }
      return ExpertBlock(
        block: name, few: Figures.grouped(few), all: Figures.grouped(members.count),
        fewest: Figures.grouped(fewest.report.routedTokens ?? 0),
        width: Figures.grouped(fewest.report.columns))
    }
    let scarce = report.scarceFactors
    let shrunk = scarce.count { $0.report.isShrunk }
    let text =
      scarce.isEmpty
      ? "Every expert's inputs saw at least as many tokens as they are wide."
      : "\(Figures.grouped(scarce.count)) of \(Figures.grouped(routed.count)) inputs of experts saw fewer tokens than they are wide; to \(Figures.grouped(shrunk)) of them the inputs of all tokens were added."
    return (rows, text)
  }

  /// The matrices that have most of the error that is left.
  private static func worst(_ report: RunReport) -> [MatrixRow] {
    let known = report.matrices.compactMap { matrix in
      matrix.lastLoss.map { (matrix: matrix, loss: $0) }
    }.filter { $0.loss > 0 && $0.loss.isFinite }
    let all = max(known.reduce(0) { $0 + $1.loss }, 1e-300)
    let sorted = known.sorted { ($1.loss, $0.matrix.name) < ($0.loss, $1.matrix.name) }.prefix(mostRows)
    let most = max(sorted.first?.loss ?? 0, 1e-300)
    return sorted.map { matrix, loss in
      MatrixRow(
        name: Self.shown(matrix), pattern: matrix.last?.pattern.description ?? "",
        value: "\(Figures.percent(loss / all))", share: Page.width(loss, of: most),
        detail: Figures.percent(matrix.reduction))
    }
  }

  private static func shown(_ matrix: RunReport.Matrix) -> String {
    HTML.breakable(matrix.place.block.map { "\(matrix.place.kind), block \($0)" } ?? matrix.name)
  }

  private static func slowest(_ report: RunReport) -> [MatrixRow] {
    let sorted = report.matrices.filter { $0.seconds > 0 }
      .sorted { ($1.seconds, $0.name) < ($0.seconds, $1.name) }.prefix(mostRows)
    let most = max(sorted.first?.seconds ?? 0, 1e-9)
    return sorted.map { matrix in
      let swaps = matrix.steps.compactMap(\.report.swaps)
      return MatrixRow(
        name: Self.shown(matrix), pattern: matrix.last?.pattern.description ?? "",
        value: Figures.duration(matrix.seconds), share: Page.width(matrix.seconds, of: most),
        detail: swaps.isEmpty ? "" : Figures.grouped(Figures.sum(swaps)))
    }
  }

  private static func coverage(_ coverage: Coverage?) -> [CoverageRow] {
    guard let coverage else { return [] }
    let parts =
      (coverage.pruned ?? []).map { ("pruned", $0) } + coverage.left.map { ("left dense", $0) }
      + coverage.fixed.map { ("never pruned", $0) } + coverage.unused.map { ("not computed", $0) }
    let all = Double(max(1, coverage.parameters))
    return parts.prefix(40).map { kind, part in
      CoverageRow(
        name: HTML.breakable(part.name), kind: kind, count: Figures.grouped(part.count),
        parameters: Figures.grouped(part.parameters), share: Figures.percent(Double(part.parameters) / all),
        width: Page.width(Double(part.parameters), of: all))
    }
  }
}
