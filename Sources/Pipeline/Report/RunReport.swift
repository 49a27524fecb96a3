import EspalierCore
import EspalierIO

/// What the last run of a work folder achieved: losses of every matrix before and after every stage, totals, evaluations.
public struct RunReport: Sendable {
  /// What one stage did to one matrix.
  public struct Step: Sendable {
    public let stage: String
    public let lossBefore: Double?
    public let lossAfter: Double?
    /// What no mask of the pattern can lose less than, where a stage proved it.
    public let lowerBound: Double?
    public let swaps: Int?
    public let seconds: Double?

    /// The most by which the mask can be from the best one: `1 - lowerBound / lossAfter`.
    public var certifiedGap: Double? { RunReport.gap(lossAfter, lowerBound) }
  }

  /// One matrix with its chain of stages.
  public struct Matrix: Sendable {
    public let name: String
    public let rows: Int
    public let columns: Int
    /// The pattern of its last mask.
    public var pattern: String
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
    /// The sum of the lower bounds, where every matrix has one.
    public let lowerBound: Double?
    public let swaps: Int?
    public let seconds: Double

    public var certifiedGap: Double? { RunReport.gap(lossAfter, lowerBound) }
  }

  fileprivate static func gap(_ loss: Double?, _ bound: Double?) -> Double? {
    guard let loss, let bound, loss > 0 else { return nil }
    return 1 - bound / loss
  }

  public let history: RunHistory
  public let matrices: [Matrix]
  public let totals: [Total]
  /// The part of the inputs' energy that factors of low rank left to the diagonal, from 0 to 1, by unit.
  public let discardedEnergies: [(unit: String, share: Double)]
  /// An expert's input that saw fewer tokens than it is wide.
  public struct ScarceInput: Sendable {
    public let unit: String
    /// Tokens that were routed to the expert.
    public let tokens: Int
    public let columns: Int
    /// Whether what the expert makes of all tokens was added.
    public let isShrunk: Bool
  }

  public let scarceInputs: [ScarceInput]
  /// Reports of evaluating stages, by stage.
  public let evaluations: [(stage: String, result: JSON)]

  public init(work: String) throws {
    history = try RunHistory(work: work)
    var matrices: [Matrix] = []
    var index: [String: Int] = [:]
    var evaluations: [(stage: String, result: JSON)] = []
    for entry in history.entries {
      let report = entry.manifest.report
      let stage = String(entry.unit.prefix { $0 != "/" })
      if let name = report["matrix"]?.string {
        if index[name] == nil {
          index[name] = matrices.count
          matrices.append(
            Matrix(
              name: name, rows: report["rows"]?.integer ?? 0, columns: report["columns"]?.integer ?? 0,
              pattern: "",
              steps: []))
        }
        if let pattern = report["pattern"]?.string { matrices[index[name] ?? 0].pattern = pattern }
        matrices[index[name] ?? 0].steps.append(
          Step(
            stage: stage, lossBefore: report["lossBefore"]?.double, lossAfter: report["lossAfter"]?.double,
            lowerBound: report["lowerBound"]?.double, swaps: report["swaps"]?.integer,
            seconds: entry.seconds))
      } else if report["pruned"] != nil {
        evaluations.append((stage, report))
      }
    }
    discardedEnergies = history.entries.compactMap { entry in
      entry.manifest.report["discardedEnergy"]?.double.map { (entry.unit, $0) }
    }
    scarceInputs = history.entries.compactMap { entry in
      let report = entry.manifest.report
      guard let tokens = report["routedTokens"]?.integer, let columns = report["columns"]?.integer,
        tokens < columns
      else { return nil }
      return ScarceInput(
        unit: entry.unit, tokens: tokens, columns: columns, isShrunk: report["shrunk"]?.bool ?? false)
    }
    self.matrices = matrices
    self.evaluations = evaluations
    totals = Self.totals(history, matrices)
  }

  private static func totals(_ history: RunHistory, _ matrices: [Matrix]) -> [Total] {
    var stages: [String] = []
    for entry in history.entries {
      let stage = String(entry.unit.prefix { $0 != "/" })
      if !stages.contains(stage) { stages.append(stage) }
    }
    return stages.map { stage in
      let steps = matrices.flatMap(\.steps).filter { $0.stage == stage }
      let pairs = steps.compactMap { step in
        step.lossBefore.flatMap { before in step.lossAfter.map { (before: before, after: $0) } }
      }
      let before = pairs.reduce(0) { $0 + $1.before }
      let reductions = pairs.filter { $0.before > 0 }.map { 1 - $0.after / $0.before }
      let seconds = history.entries.filter { $0.unit.prefix { $0 != "/" } == stage }.reduce(0) {
        $0 + ($1.seconds ?? 0)
      }
      let after = steps.compactMap(\.lossAfter)
      let bounds = steps.compactMap(\.lowerBound)
      return Total(
        stage: stage, matrices: steps.count, lossBefore: pairs.isEmpty ? nil : before,
        lossAfter: after.isEmpty ? nil : after.reduce(0, +),
        meanReduction: reductions.isEmpty ? nil : reductions.reduce(0, +) / Double(reductions.count),
        totalReduction: before > 0 ? 1 - pairs.reduce(0) { $0 + $1.after } / before : nil,
        lowerBound: bounds.isEmpty || bounds.count < steps.count ? nil : bounds.reduce(0, +),
        swaps: steps.contains { $0.swaps != nil } ? steps.reduce(0) { $0 + ($1.swaps ?? 0) } : nil,
        seconds: seconds)
    }
  }

  public var json: JSON {
    [
      "state": .string(history.state), "peakMemory": .integer(history.peakMemory),
      "coverage": history.coverage?.json ?? .null,
      "matrices": .array(
        matrices.map { matrix in
          [
            "name": .string(matrix.name), "rows": .integer(matrix.rows), "columns": .integer(matrix.columns),
            "pattern": .string(matrix.pattern),
            "stages": .array(
              matrix.steps.map {
                [
                  "stage": .string($0.stage), "lossBefore": .optional($0.lossBefore),
                  "lossAfter": .optional($0.lossAfter),
                  "lowerBound": .optional($0.lowerBound), "certifiedGap": .optional($0.certifiedGap),
                  "swaps": $0.swaps.map(JSON.integer) ?? .null, "seconds": .optional($0.seconds),
                ]
              }),
          ]
        }),
      "totals": .array(
        totals.map {
          [
            "stage": .string($0.stage), "matrices": .integer($0.matrices),
            "lossBefore": .optional($0.lossBefore),
            "lossAfter": .optional($0.lossAfter), "meanErrorReduction": .optional($0.meanReduction),
            "totalErrorReduction": .optional($0.totalReduction),
            "lowerBound": .optional($0.lowerBound), "certifiedGap": .optional($0.certifiedGap),
            "swaps": $0.swaps.map(JSON.integer) ?? .null,
            "seconds": .number($0.seconds),
          ]
        }),
      "discardedEnergies": .object(
        JSONObject(discardedEnergies.map { (key: $0.unit, value: .number($0.share)) })),
      "scarceInputs": .array(
        scarceInputs.map {
          [
            "unit": .string($0.unit), "tokens": .integer($0.tokens), "columns": .integer($0.columns),
            "shrunk": .bool($0.isShrunk),
          ]
        }),
      "evaluations": .array(evaluations.map { ["stage": .string($0.stage), "result": $0.result] }),
      "perplexities": .object(
        JSONObject(
          evaluations.flatMap { evaluation in
            ["dense", "pruned"].compactMap { model in
              evaluation.result[model]?["perplexity"]?["perplexity"].map {
                (key: evaluations.count == 1 ? model : "\(evaluation.stage).\(model)", value: $0)
              }
            }
          })),
    ]
  }
}

extension JSON {
  /// The number, or null.
  public static func optional(_ value: Double?) -> JSON { value.map(JSON.number) ?? .null }
}
