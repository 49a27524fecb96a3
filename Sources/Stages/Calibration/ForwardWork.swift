import EspalierCore
import EspalierStageKit

extension ModelOutline.Block {
  /// The work of the forward pass of tokens in sequences of `length`, or of a part of it.
  ///
  /// - Parameters:
  ///   - computed: the sites whose products are computed, by index; nil for all.
  ///   - mixes: whether the mixer runs between them.
  func forwardWork(
    _ model: ModelOutline, sites computed: [Int]? = nil, mixes: Bool = true, tokens: Int, length: Int,
    precision: Precision
  ) -> Work {
    let computed = computed ?? Array(sites.indices)
    let weights = computed.reduce(0.0) { sum, site in
      sum + sites[site].tokenShare * sites[site].matrices.reduce(0) { $0 + $1.weights }
    }
    let (tokens, batches) = (
      Double(tokens), Double(tokens) / Double(max(1, Batching.sequences(length: length) * length))
    )
    // Scores and weighted sums; causal attention uses half of all pairs. Their softmax takes about as long.
    let attention = mixes ? 4 * tokens * Double(length) * Double(model.hiddenSize) : 0
    // Each batch converts the weights once; every activation is written and read about once.
    let width =
      computed.count == sites.count
      ? model.activationWidth + model.innerWidth
      : model.hiddenSize + computed.reduce(0) { $0 + sites[$1].columns }
    var work = Work(
      memoryBytes: max(1, batches) * weights * 6 + tokens * Double(width) * 8)
    work.add(operations: attention + 2 * tokens * weights, precision)
    return work
  }
}
