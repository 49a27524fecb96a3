import EspalierCore
import EspalierKernels

extension Blueprint {
  /// Checks that the heads of every attention match the layers around it, which the forward pass relies on.
  ///
  /// - Throws: bad input with the sizes.
  func checkHeads() throws {
    for block in blocks {
      guard case .attention(let attention) = block.mixer else { continue }
      let shape = attention.shape
      guard shape.heads % shape.keyHeads == 0, attention.fits else {
        throw EspalierError.badInput(
          "\(shape.heads) attention heads of \(shape.headSize) values with \(shape.keyHeads) key heads do not fit a hidden size of \(hiddenSize)."
        )
      }
    }
  }
}

extension Blueprint.Attention {
  /// Whether queries, keys and values are as wide as the layers that make them, and the output layer as wide as its input.
  fileprivate var fits: Bool {
    guard output.columns == outputWidth else { return false }
    switch projections {
    case .separate(let query, let key, let value):
      return query.rows == (isGated ? 2 : 1) * queryWidth && key.rows == keyWidth
        && (value ?? key).rows == valueWidth
    case .fused(let linear, _): return linear.rows == queryWidth + keyWidth + valueWidth
    case .latent: return true
    }
  }
}
