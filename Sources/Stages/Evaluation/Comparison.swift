import EspalierCore
import EspalierStageKit
import Glibc

/// How far a model is from another one.
enum Comparison {
  /// What llama.cpp's `--kl-divergence` prints: divergences, first choices, and the ratio of perplexities with its error from the
  /// differences of the log-probabilities.
  static func report(_ text: String, _ scores: some Collection<SequenceScores>) -> ComparisonReport {
    let divergences = scores.flatMap(\.divergences)
    let agreements = scores.flatMap(\.agreements)
    let differences = scores.flatMap { zip($0.references, $0.logProbabilities).map(-) }
    var report = ComparisonReport()
    report.text = text
    report.predictions = divergences.count
    (report.divergence, report.divergenceError) = meanAndError(divergences)
    let sorted = divergences.sorted()
    let middle = sorted.count / 2
    report.medianDivergence =
      sorted.count % 2 == 1 || sorted.isEmpty
      ? sorted.dropFirst(middle).first : (sorted[middle - 1] + sorted[middle]) / 2
    report.largestDivergence = sorted.last
    (report.agreement, report.agreementError) = meanAndError(agreements.map { $0 ? 1 : 0 })
    let (logarithm, error) = meanAndError(differences)
    report.ratio = exp(logarithm)
    report.ratioError = exp(logarithm) * error
    return report
  }

  /// The mean and its standard error; 0 for fewer than two values.
  static func meanAndError(_ values: [Double]) -> (mean: Double, error: Double) {
    let count = Double(values.count)
    let mean = values.reduce(0, +) / max(1, count)
    let squares = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
    return (mean, values.count > 1 ? (squares / (count - 1) / count).squareRoot() : 0)
  }
}

/// Pearson's correlation of two models' outputs.
struct Correlation {
  private var count = 0.0
  private var sums = (0.0, 0.0)
  private var squares = (0.0, 0.0)
  private var products = 0.0

  mutating func add(_ first: borrowing Matrix, _ second: borrowing Matrix) {
    let (x, y) = (first.elements.span, second.elements.span)
    for index in 0..<min(x.count, y.count) {
      let (a, b) = (Double(x[index]), Double(y[index]))
      sums = (sums.0 + a, sums.1 + b)
      squares = (squares.0 + a * a, squares.1 + b * b)
      products += a * b
    }
    count += Double(x.count)
  }

  /// nil if the outputs of one of them do not vary.
  var value: Double? {
    let covariance = products - sums.0 * sums.1 / count
    let variances = (squares.0 - sums.0 * sums.0 / count) * (squares.1 - sums.1 * sums.1 / count)
    return variances > 0 ? covariance / variances.squareRoot() : nil
  }
}
