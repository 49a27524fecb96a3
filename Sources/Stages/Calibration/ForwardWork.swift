import EspalierCore
import EspalierPipeline

extension ModelOutline.Block {
  /// What the forward pass of tokens in sequences of `length` takes, through the whole block or as far as a site.
  func forwardWork(
    _ model: ModelOutline, tokens: Int, length: Int, through last: Int? = nil, precision: Precision
  ) -> Work {
    let weights = sites.prefix(last ?? sites.count).reduce(0.0) { sum, site in
      sum + site.tokenShare * site.matrices.reduce(0) { $0 + $1.weights }
    }
    let (tokens, batches) = (
      Double(tokens), Double(tokens) / Double(max(1, Batching.sequences(length: length) * length))
    )
    // Scores and what they weigh, of the keys before each query: half of all.
    let attention = 2 * tokens * Double(length) * Double(model.hiddenSize)
    // Weights are converted once for each batch; every value of the activations is written and read about once.
    var work = Work(
      operations: attention,
      memoryBytes: max(1, batches) * weights * 6 + tokens * Double(model.activationWidth + model.innerWidth)
        * 8)
    work.add(operations: 2 * tokens * weights, precision)
    return work
  }
}
