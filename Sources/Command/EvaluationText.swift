import EspalierCore
import EspalierPipeline

extension EvaluationReport {
  /// One line for each measure of each model.
  var lines: [String] {
    let isNamed = models.count > 1
    return models.flatMap { name, scores in scores.lines.map { isNamed ? "\(name) \($0)" : $0 } }
      + comparisons.map(\.line)
  }

  /// The report of `evaluate`, which knows a model and another one rather than a pruned one and a dense one.
  func json(of model: String, against other: String?) -> JSON {
    let own = pruned.json.object?.members ?? []
    guard let other else { return .object(JSONObject([("model", .string(model))] + own)) }
    return .object(
      JSONObject(
        [("model", .string(model))] + own + [
          ("against", .object(JSONObject([("model", .string(other))] + (dense?.json.object?.members ?? [])))),
          ("comparisons", .array(comparisons.map(\.json))),
        ]))
  }
}

extension ModelScores {
  fileprivate var lines: [String] { perplexities.map(\.line) + tasks.map(\.line) }
}

extension PerplexityReport {
  fileprivate var line: String {
    "\(text): window perplexity \(fixed(perplexity, 4)) +- \(fixed(error, 4)) (\(windows) windows of \(length) tokens)"
  }
}

extension TaskReport {
  fileprivate var line: String {
    let values = metrics.members.filter { !$0.key.hasSuffix("_stderr") }.map { name, value in
      let isShare = name.hasPrefix("acc")
      func shown(_ value: JSON) -> String {
        isShare ? fixed((value.double ?? 0) * 100, 1) : fixed(value.double ?? 0, 4)
      }
      let error = metrics[name + "_stderr"].map { " +- \(shown($0))" } ?? ""
      return "\(name) \(shown(value))\(error)\(isShare ? " %" : "")"
    }
    return "\(task): \(values.joined(separator: ", ")) (\(rows) rows\(shots > 0 ? ", \(shots)-shot" : ""))"
  }
}

extension ComparisonReport {
  fileprivate var line: String {
    if let correlation { return "\(text): correlation of the outputs \(fixed(correlation, 6))" }
    guard let divergence, let agreement, let ratio else { return "\(text): the outputs do not vary" }
    return
      "\(text): KL divergence \(fixed(divergence, 5)) +- \(fixed(divergenceError ?? 0, 5)) (median \(fixed(medianDivergence ?? 0, 5)), largest \(fixed(largestDivergence ?? 0, 2))), same first choice \(fixed(agreement * 100, 2)) +- \(fixed((agreementError ?? 0) * 100, 2)) %, perplexity ratio \(fixed(ratio, 4)) +- \(fixed(ratioError ?? 0, 4))"
  }
}
