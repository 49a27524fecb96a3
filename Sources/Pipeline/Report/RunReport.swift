import EspalierCore
import EspalierIO

/// The results of the last run of a work folder: losses of every matrix before and after every stage, totals, evaluations.
public struct RunReport: Sendable {
  /// One stage on one matrix.
  public struct Step: Sendable {
    /// The stage's id in the recipe.
    public let stage: String
    public let report: MatrixReport
    public let seconds: Double?
    /// Key of the artifact in the work folder.
    public let key: Digest

    /// `1 - after / before`; nil if one is not known.
    public var reduction: Double? { Self.reduction(report.lossBefore, report.lossAfter) }

    static func reduction(_ before: Double?, _ after: Double?) -> Double? {
      guard let before, let after, before > 0 else { return nil }
      return 1 - after / before
    }
  }

  /// One matrix with its chain of stages.
  public struct Matrix: Sendable {
    public let name: String
    public var steps: [Step]

    public var place: ModuleName { ModuleName(name) }
    /// The error with the first mask and with the last one.
    public var firstLoss: Double? {
      steps.lazy.compactMap { $0.report.lossBefore ?? $0.report.lossAfter }.first
    }
    public var lastLoss: Double? { steps.lazy.compactMap(\.report.lossAfter).last }
    /// The share of the first mask's error that later stages removed; nil if no stage came later.
    public var reduction: Double? {
      steps.contains { $0.reduction != nil } ? Step.reduction(firstLoss, lastLoss) : nil
    }
    public var seconds: Double { steps.reduce(0) { $0 + ($1.seconds ?? 0) } }
    /// The report of the last stage.
    public var last: MatrixReport? { steps.last?.report }
  }

  /// One stage over all matrices.
  public struct Total: Sendable {
    public let stage: String
    public let matrices: Int
    public let lossBefore: Double?
    public let lossAfter: Double?
    /// Mean over the matrices of `1 - after / before`: the papers' error reduction.
    public let meanReduction: Double?
    /// `1 - (sum of after) / (sum of before)`.
    public let totalReduction: Double?
    /// The sum of the lower bounds; nil unless every matrix has one.
    public let lowerBound: Double?
    public let swaps: Int?
    /// Units of all kinds.
    public let units: Int
    public let seconds: Double
    /// The most bytes of buffers of one unit, and the most that was planned for one.
    public let buffers: Int
    public let plannedBuffers: Int

    public var certifiedGap: Double? { MatrixReport.gap(lossAfter, lowerBound) }
  }

  public let history: RunHistory
  public let matrices: [Matrix]
  public let totals: [Total]
  /// The calibration data, by stage.
  public let corpora: [(stage: String, report: CorpusReport)]
  /// How the sparsity was spread, by stage.
  public let allocations: [(stage: String, report: AllocationReport)]
  /// Factors, by unit.
  public let factors: [(unit: String, report: FactorReport)]
  /// Evaluations, by stage.
  public let evaluations: [(stage: String, report: EvaluationReport)]

  /// Factors of experts to which fewer tokens were routed than their inputs are wide.
  public var scarceFactors: [(unit: String, report: FactorReport)] {
    factors.filter { $0.report.routedTokens ?? .max < $0.report.columns }
  }

  /// The share of the inputs' energy that each factor of low rank leaves to the diagonal, by unit.
  public var discardedEnergies: [(unit: String, share: Double)] {
    factors.compactMap { unit, report in report.discardedEnergy.map { (unit, $0) } }
  }

  public init(work: String) throws {
    history = try RunHistory(work: work)
    var matrices: [Matrix] = []
    var index: [String: Int] = [:]
    var factors: [(unit: String, report: FactorReport)] = []
    var evaluations: [(stage: String, report: EvaluationReport)] = []
    var corpora: [(stage: String, report: CorpusReport)] = []
    var allocations: [(stage: String, report: AllocationReport)] = []
    for entry in history.entries {
      switch entry.report {
      case .matrix(let report):
        if index[report.matrix] == nil { matrices.append(Matrix(name: report.matrix, steps: [])) }
        let place = index[report.matrix, default: matrices.count - 1]
        index[report.matrix] = place
        matrices[place].steps.append(
          Step(stage: entry.stage, report: report, seconds: entry.seconds, key: entry.manifest.key))
      case .factor(let report): factors.append((entry.unit, report))
      case .evaluation(let report): evaluations.append((entry.stage, report))
      case .corpus(let report): corpora.append((entry.stage, report))
      case .allocation(let report): allocations.append((entry.stage, report))
      case .hidden, .output, nil: break
      }
    }
    self.corpora = corpora
    self.allocations = allocations
    self.matrices = matrices
    self.factors = factors
    self.evaluations = evaluations
    totals = Self.totals(history, matrices)
  }

  private static func totals(_ history: RunHistory, _ matrices: [Matrix]) -> [Total] {
    var stages: [String] = []
    for entry in history.entries where !stages.contains(entry.stage) { stages.append(entry.stage) }
    return stages.map { stage in
      let reports = matrices.flatMap(\.steps).filter { $0.stage == stage }.map(\.report)
      let pairs = reports.compactMap { report in
        report.lossBefore.flatMap { before in report.lossAfter.map { (before: before, after: $0) } }
      }
      let before = pairs.reduce(0) { $0 + $1.before }
      let reductions = pairs.compactMap { Step.reduction($0.before, $0.after) }
      let entries = history.entries.filter { $0.stage == stage }
      let efforts = entries.compactMap(\.effort)
      let after = reports.compactMap(\.lossAfter)
      let bounds = reports.compactMap(\.lowerBound)
      let swaps = reports.compactMap(\.swaps)
      return Total(
        stage: stage, matrices: reports.count, lossBefore: pairs.isEmpty ? nil : before,
        lossAfter: after.isEmpty ? nil : after.reduce(0, +),
        meanReduction: reductions.isEmpty ? nil : reductions.reduce(0, +) / Double(reductions.count),
        totalReduction: before > 0 ? 1 - pairs.reduce(0) { $0 + $1.after } / before : nil,
        lowerBound: bounds.isEmpty || bounds.count < reports.count ? nil : bounds.reduce(0, +),
        swaps: swaps.isEmpty ? nil : Figures.sum(swaps), units: entries.count,
        seconds: efforts.reduce(0) { $0 + $1.seconds },
        buffers: efforts.map(\.buffers).max() ?? 0,
        plannedBuffers: efforts.map(\.plannedBuffers).max() ?? 0)
    }
  }

  /// The share of the pruned matrices' weights that is zero; nil if there are no masks.
  public var sparsity: Double? {
    let reports = matrices.compactMap(\.last)
    let all = reports.reduce(0.0) { $0 + Double($1.rows) * Double($1.columns) }
    return all > 0 ? 1 - reports.reduce(0.0) { $0 + Double($1.kept) } / all : nil
  }

  /// Seconds of work in all units.
  public var seconds: Double { totals.reduce(0) { $0 + $1.seconds } }

  /// Kinds of matrices, in the order in which a block has them.
  public var kinds: [String] {
    var seen: Set<String> = []
    return matrices.map(\.place.kind).filter { seen.insert($0).inserted }
  }

  public var json: JSON {
    [
      "state": .string(history.state.rawValue), "model": history.model.map(JSON.string) ?? .null,
      "sparsity": .optional(sparsity), "seconds": .number(seconds),
      "peakMemory": .integer(history.peakMemory),
      "corpora": .array(
        corpora.map { ["stage": .string($0.stage), "corpus": $0.report.json] }),
      "stages": .array(history.stages.map(\.json)), "forecast": history.forecast?.json ?? .null,
      "outputs": .array(history.outputs.map(\.json)), "coverage": history.coverage?.json ?? .null,
      "matrices": .array(matrices.compactMap(\.json)),
      "totals": .array(totals.map(\.json)),
      "discardedEnergies": .object(
        JSONObject(discardedEnergies.map { (key: $0.unit, value: .number($0.share)) })),
      "scarceInputs": .array(
        scarceFactors.map { unit, report in
          [
            "unit": .string(unit), "tokens": .integer(report.routedTokens ?? 0),
            "columns": .integer(report.columns), "shrunk": .bool(report.isShrunk),
          ]
        }),
      "evaluations": .array(
        evaluations.map { ["stage": .string($0.stage), "result": $0.report.json] }),
      "perplexities": .object(
        JSONObject(
          evaluations.flatMap { stage, report in
            report.models.compactMap { name, scores in
              scores.perplexities.first.map {
                (key: evaluations.count == 1 ? name : "\(stage).\(name)", value: .number($0.perplexity))
              }
            }
          })),
    ]
  }
}

extension RunReport.Matrix {
  fileprivate var json: JSON? {
    guard let last = steps.last?.report else { return nil }
    return [
      "name": .string(name), "rows": .integer(last.rows), "columns": .integer(last.columns),
      "pattern": .string(last.pattern.description), "kept": .integer(last.kept),
      "stages": .array(
        steps.map { step in
          [
            "stage": .string(step.stage), "lossBefore": .optional(step.report.lossBefore),
            "lossAfter": .optional(step.report.lossAfter),
            "lowerBound": .optional(step.report.lowerBound),
            "certifiedGap": .optional(step.report.certifiedGap),
            "swaps": step.report.swaps.map(JSON.integer) ?? .null, "seconds": .optional(step.seconds),
          ]
        }),
    ]
  }
}

extension RunReport.Total {
  fileprivate var json: JSON {
    [
      "stage": .string(stage), "matrices": .integer(matrices), "lossBefore": .optional(lossBefore),
      "lossAfter": .optional(lossAfter), "meanErrorReduction": .optional(meanReduction),
      "totalErrorReduction": .optional(totalReduction), "lowerBound": .optional(lowerBound),
      "certifiedGap": .optional(certifiedGap), "swaps": swaps.map(JSON.integer) ?? .null,
      "units": .integer(units), "seconds": .number(seconds), "buffers": .integer(buffers),
      "plannedBuffers": .integer(plannedBuffers),
    ]
  }
}

extension JSON {
  /// The number, or null.
  public static func optional(_ value: Double?) -> JSON { value.map(JSON.number) ?? .null }
}
