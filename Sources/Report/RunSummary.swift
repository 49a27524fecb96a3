import EspalierCore
import EspalierIO
import EspalierPipeline

/// The few numbers that say what a run gave.
public struct RunSummary: Sendable {
  /// The name of the model's folder.
  public let model: String
  /// The patterns of the masks: `2:4`, or `60%, 2:4`, or a range if they are many.
  public let patterns: String
  /// What was done, in a word for each stage that changes masks: `wanda, sparseswaps`.
  public let methods: String
  /// The share of the pruned matrices' weights that is zero, and the share of all parameters.
  public let sparsity: Double?
  public let sparsityOfAll: Double?
  /// Window perplexity of the first text that was measured.
  public let perplexity: (text: String, dense: Double?, pruned: Double)?
  /// Mean over the matrices of the share of the first mask's error that was removed.
  public let reduction: Double?
  public let seconds: Double
  public let peakMemory: Int
  public let matrices: Int
  /// Samples and tokens of each.
  public let calibration: CorpusReport?

  public init(_ report: RunReport) {
    model = report.history.model.map(Folder.name(of:)) ?? "model"
    let found = report.matrices.compactMap(\.last?.pattern)
    var seen: Set<String> = []
    let names = found.map(\.description).filter { seen.insert($0).inserted }
    matrices = found.count
    sparsity = report.sparsity
    patterns =
      names.count > 3
      ? Figures.percent(report.sparsity, digits: 0) + " on average" : names.joined(separator: ", ")
    methods = report.history.stages.compactMap { $0.step?.tag }.joined(separator: ", ")
    let zeros = report.matrices.compactMap(\.last).reduce(0.0) {
      $0 + Double($1.rows) * Double($1.columns) - Double($1.kept)
    }
    sparsityOfAll = report.history.coverage.flatMap {
      $0.parameters > 0 && !found.isEmpty ? zeros / Double($0.parameters) : nil
    }
    perplexity =
      report.evaluations.lazy.compactMap { _, evaluation in
        evaluation.pruned.perplexities.first.map { own in
          (
            text: own.text, dense: evaluation.dense?.perplexities.first { $0.text == own.text }?.perplexity,
            pruned: own.perplexity
          )
        }
      }.first
    let reductions = report.matrices.compactMap(\.reduction)
    reduction = reductions.isEmpty ? nil : reductions.reduce(0, +) / Double(reductions.count)
    calibration = report.corpora.first?.report
    (seconds, peakMemory) = (report.seconds, report.history.peakMemory)
  }

  /// `Llama, pruned to 2:4`.
  public var title: String { patterns.isEmpty ? model : "\(model), pruned to \(patterns)" }

  /// How the calibration text was drawn.
  public static func draw(_ stage: StageRecord?) -> String {
    guard let stage else { return "" }
    let parameters = JSON.object(stage.parameters)
    switch parameters["draw"]?.string {
    case "consecutive": return "taken in order from the start"
    case "random": return "drawn at random with seed \(parameters["seed"]?.integer ?? 0)"
    case let other: return other ?? ""
    }
  }

  var tiles: [Page.Tile] {
    var tiles: [Page.Tile] = []
    if let sparsity {
      tiles.append(
        Page.Tile(
          label: "sparsity", value: Figures.percent(sparsity),
          detail:
            "of \(Figures.grouped(matrices)) matrices"
            + (sparsityOfAll.map { "; \(Figures.percent($0)) of all parameters" } ?? "")))
    }
    if let perplexity {
      let dense = perplexity.dense
      tiles.append(
        Page.Tile(
          label: "perplexity",
          value: (dense.map { "\(fixed($0, 3)) → " } ?? "") + fixed(perplexity.pruned, 3),
          detail: (dense.map { "dense → pruned, \(Self.change($0, perplexity.pruned)), " } ?? "") + "on "
            + HTML.clean(perplexity.text)))
    }
    if let reduction {
      tiles.append(
        Page.Tile(
          label: "less output error", value: Figures.percent(reduction),
          detail: "than with the first masks, mean over the matrices"))
    }
    if let calibration {
      tiles.append(
        Page.Tile(
          label: "calibrated on", value: Figures.grouped(calibration.tokens),
          detail:
            "tokens, \(Figures.grouped(calibration.samples)) windows of \(Figures.grouped(calibration.length))"
        ))
    }
    tiles.append(
      Page.Tile(label: "time", value: Figures.duration(seconds), detail: "work in all stages"))
    tiles.append(
      Page.Tile(label: "memory", value: "\(ByteSize(bytes: peakMemory))", detail: "the most at a time"))
    return tiles
  }

  /// `+4.2 %`.
  public static func change(_ before: Double, _ after: Double) -> String {
    guard before != 0 else { return "" }
    let share = after / before - 1
    return (share < 0 ? "" : "+") + Figures.percent(share)
  }
}
