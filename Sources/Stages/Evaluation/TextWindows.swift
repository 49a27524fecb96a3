import EspalierCore
import EspalierIO
import EspalierModels
import EspalierStageKit
import Glibc

/// The windows of a text, as the papers take them for the perplexity: the text is tokenized once with the tokenizer's own special
/// tokens and cut into windows that do not overlap; the remainder is dropped.
struct TextWindows {
  let path: String
  let length: Int
  let windows: [[Int32]]

  /// Name of the file.
  var name: String { path.split(separator: "/").last.map(String.init) ?? path }

  /// - Parameters:
  ///   - limit: how many windows to take from the start; nil takes all.
  ///   - scratch: an existing folder in which a packed text is unpacked.
  /// - Throws: bad input if the text is shorter than one window.
  init(_ path: String, of model: Model, length: Int, limit: Int?, scratch: String) throws {
    try self.init(
      Corpus(path: path, checkpoint: model.checkpoint, specialTokens: true, scratch: scratch), length: length,
      limit: limit)
  }

  /// Checks what can be known of a text before any work; see ``Corpus/checked(_:checkpoint:tokenizer:specialTokens:)``.
  static func check(_ path: String, of model: Model, length: Int) throws {
    let corpus = try Corpus.checked(path, checkpoint: model.checkpoint, specialTokens: true)
    if let corpus { _ = try TextWindows(corpus, length: length, limit: 1) }
  }

  private init(_ corpus: borrowing Corpus, length: Int, limit: Int?) throws {
    let path = corpus.path
    var ids: [Int32] = []
    for index in 0..<corpus.count where ids.count / length < limit ?? .max {
      ids += try corpus.tokens(index)
    }
    let count = min(ids.count / length, limit ?? Int.max)
    guard count > 0 else {
      throw EspalierError.badInput(
        "the text has \(ids.count) tokens, less than one window of \(length); give more text or a smaller length.",
        subject: path)
    }
    self.path = path
    self.length = length
    windows = (0..<count).map { Array(ids[$0 * length..<($0 + 1) * length]) }
  }

  var sequences: [ScoredSequence] {
    windows.map { ScoredSequence(inputs: $0, first: 0, targets: Array($0.dropFirst())) }
  }

  /// The exponential of the mean over windows of the mean cross-entropy over `length - 1` predictions.
  ///
  /// - Parameter scores: for each window, the natural log-probabilities of its predictions.
  func perplexity(_ scores: [[Double]]) -> PerplexityReport {
    let means = scores.map { $0.reduce(0, +) / Double($0.count) }
    let perplexity = exp(-means.reduce(0, +) / Double(means.count))
    let (_, error) = Comparison.meanAndError(Array(scores.joined()))
    return PerplexityReport(
      text: name, perplexity: perplexity, error: perplexity * error, length: length, windows: windows.count)
  }
}
