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
  }

  /// One matrix with its chain of stages.
  public struct Matrix: Sendable {
    public let name: String
    public var steps: [Step]
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
    public let seconds: Double

    public var certifiedGap: Double? { MatrixReport.gap(lossAfter, lowerBound) }
  }

  public let history: RunHistory
  public let matrices: [Matrix]
  public let totals: [Total]
  /// The calibration data, by stage.
  public let corpora: [(stage: String, report: CorpusReport)]
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
    for entry in history.entries {
      switch entry.report {
      case .matrix(let report):
        if index[report.matrix] == nil { matrices.append(Matrix(name: report.matrix, steps: [])) }
        let place = index[report.matrix, default: matrices.count - 1]
        index[report.matrix] = place
        matrices[place].steps.append(Step(stage: entry.stage, report: report, seconds: entry.seconds))
      case .factor(let report): factors.append((entry.unit, report))
      case .evaluation(let report): evaluations.append((entry.stage, report))
      case .corpus(let report): corpora.append((entry.stage, report))
      case .hidden, .allocation, .output, nil: break
      }
    }
    self.corpora = corpora
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
      let reductions = pairs.filter { $0.before > 0 }.map { 1 - $0.after / $0.before }
      let seconds = history.entries.filter { $0.stage == stage }.reduce(0) { $0 + ($1.seconds ?? 0) }
      let after = reports.compactMap(\.lossAfter)
      let bounds = reports.compactMap(\.lowerBound)
      let swaps = reports.compactMap(\.swaps)
      return Total(
        stage: stage, matrices: reports.count, lossBefore: pairs.isEmpty ? nil : before,
        lossAfter: after.isEmpty ? nil : after.reduce(0, +),
        meanReduction: reductions.isEmpty ? nil : reductions.reduce(0, +) / Double(reductions.count),
        totalReduction: before > 0 ? 1 - pairs.reduce(0) { $0 + $1.after } / before : nil,
        lowerBound: bounds.isEmpty || bounds.count < reports.count ? nil : bounds.reduce(0, +),
        swaps: swaps.isEmpty ? nil : swaps.reduce(0, +), seconds: seconds)
    }
  }

  public var json: JSON {
    [
      "state": .string(history.state.rawValue), "peakMemory": .integer(history.peakMemory),
      "corpora": .array(
        corpora.map { ["stage": .string($0.stage), "corpus": $0.report.json] }),
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
      "seconds": .number(seconds),
    ]
  }
}

extension JSON {
  /// The number, or null.
  public static func optional(_ value: Double?) -> JSON { value.map(JSON.number) ?? .null }
}
