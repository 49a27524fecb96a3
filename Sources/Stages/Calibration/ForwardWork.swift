import EspalierCore
import EspalierPipeline

extension ModelOutline.Block {
  /// The work of the forward pass of tokens in sequences of `length`, through the whole block or up to a site.
  func forwardWork(
    _ model: ModelOutline, tokens: Int, length: Int, through last: Int? = nil, precision: Precision
  ) -> Work {
    let weights = sites.prefix(last ?? sites.count).reduce(0.0) { sum, site in
      sum + site.tokenShare * site.matrices.reduce(0) { $0 + $1.weights }
    }
    let (tokens, batches) = (
      Double(tokens), Double(tokens) / Double(max(1, Batching.sequences(length: length) * length))
    )
    // Scores and weighted sums; causal attention uses half of all pairs.
    let attention = 2 * tokens * Double(length) * Double(model.hiddenSize)
    // Each batch converts the weights once; every activation is written and read about once.
    var work = Work(
      operations: attention,
      memoryBytes: max(1, batches) * weights * 6 + tokens * Double(model.activationWidth + model.innerWidth)
        * 8)
    work.add(operations: 2 * tokens * weights, precision)
    return work
  }
}
