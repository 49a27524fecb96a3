import EspalierCore
import EspalierIO
import EspalierModels
import EspalierPipeline
import Glibc

/// Measures the perplexity over windows, as the papers report it.
///
/// The text is tokenized once with the tokenizer's own special tokens and cut into windows that do not overlap; the remainder is
/// dropped. The result is exp of the mean over windows of the mean cross-entropy over `length - 1` predictions.
///
/// - Parameters:
///   - windows: how many windows to take from the start; nil takes all.
///   - scratch: a folder for hidden states; removed at the end.
/// - Throws: bad input if the text is shorter than one window.
public func windowPerplexity(
  _ model: Model, text: String, length: Int, windows limit: Int?, scratch: String, precision: ProductPrecision = .auto,
  progress: @escaping (_ done: Int, _ total: Int) throws -> Void = { _, _ in },
  on device: Device
) throws -> PerplexityReport {
  try Folder.create(scratch)
  defer { try? Folder.remove(scratch) }
  let corpus = try Corpus(
    path: text, checkpoint: model.checkpoint, specialTokens: true, scratch: scratch)
  var ids: [Int32] = []
  for index in 0..<corpus.count where ids.count / length < limit ?? .max {
    ids += try corpus.tokens(index)
  }
  let count = min(ids.count / length, limit ?? Int.max)
  guard count > 0 else {
    throw EspalierError.badInput(
      "the text has \(ids.count) tokens, less than one window of \(length); give more text or a smaller length.",
      subject: text)
  }
  let sequences = (0..<count).map { Array(ids[$0 * length..<($0 + 1) * length]) }
  let stream = BlockStream(
    members: [.init(model: model, precision: precision.precision(of: model.checkpoint))], scratch: scratch,
    memory: 1 << 30, progress: progress, device: device)
  let scores = try stream.score(sequences.map { ScoredSequence(ids: $0, first: 1) })
  let means = scores.map { $0.sum / Double($0.logProbabilities.count) }
  return PerplexityReport(
    perplexity: exp(-means.reduce(0, +) / Double(means.count)), length: length, windows: count)
}
