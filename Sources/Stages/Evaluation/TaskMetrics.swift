import EspalierCore
import EspalierStageKit
import Glibc

extension Task {
  /// The sequences to be scored, row by row.
  ///
  /// - Throws: bad input that names the row.
  func sequences(_ requests: TaskRequests) throws -> [[ScoredSequence]] {
    try pairs.enumerated().map { index, pairs in
      try about("\(path), row \(index + 1)") {
        if case .document = format.measure {
          return try pairs.flatMap { try requests.windows(TaskText.withoutSplits($0.continuation)) }
        }
        return try pairs.map(requests.request)
      }
    }
  }

  /// - Parameter scores: of the sequences, row by row.
  func report(_ scores: [[SequenceScores]]) -> TaskReport {
    TaskReport(task: format.name, rows: rows.count, shots: shots, metrics: JSONObject(metrics(scores)))
  }

  /// A row with its prompts, their summed log-probabilities, and whether all tokens are the model's first choices.
  func sample(_ row: Int, _ scores: [SequenceScores]) -> JSON {
    [
      "task": .string(format.name), "row": .integer(row), "answer": .integer(rows[row].answer),
      "requests": .array(
        pairs[row].map { ["context": .string($0.context), "continuation": .string($0.continuation)] }),
      "log_probabilities": .array(scores.map { .number($0.sum) }),
      "first_choices": .array(scores.map { .bool($0.isFirstChoice.allSatisfy(\.self)) }),
    ]
  }

  private func metrics(_ scores: [[SequenceScores]]) -> [(key: String, value: JSON)] {
    switch format.measure {
    case .choice(let isNormalized):
      func share(_ name: String, _ best: (TaskRow, [Double]) -> Int) -> [(key: String, value: JSON)] {
        let hits = zip(rows, scores).map { row, scores in
          best(row, scores.map(\.sum)) == row.answer ? 1.0 : 0
        }
        return mean(name, hits)
      }
      let plain = share("acc") { Self.best($1) }
      guard isNormalized, rows.allSatisfy({ $0.characters != nil }) else { return plain }
      return plain
        + share("acc_norm") { row, sums in
          Self.best(zip(sums, row.characters ?? []).map { $0 / Double($1) })
        }
    case .continuation:
      let sums = scores.map { $0[0].sum }
      let (logarithm, error) = Comparison.meanAndError(sums)
      let perplexity = exp(-logarithm)
      return [("perplexity", .number(perplexity))]
        // The error of an exponential, to first order.
        + (sums.count > 1 ? [("perplexity_stderr", .number(perplexity * error))] : [])
        + mean("acc", scores.map { $0[0].isFirstChoice.allSatisfy(\.self) ? 1 : 0 })
    case .document:
      let sum = scores.joined().reduce(0) { $0 + $1.sum }
      let pages = rows.map { $0.pairs[0].continuation }
      let words = pages.reduce(0) { $0 + TaskText.wordCount($1) }
      let bytes = pages.reduce(0) { $0 + $1.utf8.count }
      return [
        ("word_perplexity", .number(exp(-sum / Double(words)))),
        ("byte_perplexity", .number(exp(-sum / Double(bytes)))),
        ("bits_per_byte", .number(-sum / Double(bytes) / log(2))),
      ]
    }
  }

  /// A mean over the rows with its standard error. Rows of several subjects are tasks of their own, whose variances are pooled.
  private func mean(_ name: String, _ values: [Double]) -> [(key: String, value: JSON)] {
    let mean = values.reduce(0, +) / Double(values.count)
    let subjects = Dictionary(grouping: rows.indices) { rows[$0].subject }
    let left = values.count - subjects.count
    guard left > 0 else { return [(name, .number(mean))] }
    let squares = subjects.sorted { $0.key < $1.key }.reduce(0) { sum, own in
      sum + Self.squares(own.value.map { values[$0] })
    }
    let pooled = (squares / Double(left) / Double(values.count)).squareRoot()
    return [(name, .number(mean)), (name + "_stderr", .number(pooled))]
  }

  /// The sum of squared distances from the mean.
  private static func squares(_ values: [Double]) -> Double {
    let mean = values.reduce(0, +) / Double(max(1, values.count))
    return values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
  }

  /// Index of the largest value; the first one if several are equal.
  private static func best(_ values: [Double]) -> Int {
    values.indices.reduce(0) { values[$1] > values[$0] ? $1 : $0 }
  }
}
