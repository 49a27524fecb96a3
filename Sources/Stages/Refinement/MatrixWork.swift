import EspalierCore
import EspalierKernels
import EspalierPipeline

extension UnitSizes {
  /// What a stage needs that reads the Gram matrix for losses alone: where the memory does not hold it beside the `rest`, a few rows
  /// of it at a time.
  func withLossFactor(_ rest: WorkingSet) -> WorkingSet {
    var all = rest
    all.factor =
      keepsLossFactor(beside: rest)
      ? factorBytes
      : min(factorBytes, GramMatrix.panelByteCount(columns: matrix?.columns ?? 0, threads: threads))
    return all
  }

  /// Rows of the factor of the Gram matrix; nil if it is whole.
  var factorRank: Int? {
    guard let matrix, factorBytes < matrix.columns * matrix.columns * 4 else { return nil }
    return factorBytes / max(1, matrix.columns * 4)
  }

  fileprivate func keepsLossFactor(beside rest: WorkingSet) -> Bool { rest.total + factorBytes <= available }
}

extension UnitContext {
  /// The factor of the unit's site for losses alone, as ``UnitSizes/withLossFactor(_:)`` counts it.
  func lossFactor(beside rest: (UnitSizes) -> WorkingSet) throws -> SiteFactor {
    let sizes = sizes
    return try factor(keepsPages: sizes.keepsLossFactor(beside: rest(sizes)))
  }
}

extension UnitContext {
  /// What the kernels of the unit run on.
  var device: Device { Device(threads: Threads.count) }
}

/// What the works of stages are made of.
extension ModelOutline.Matrix {
  /// Weights, `rows x columns`.
  var weights: Double { Double(rows) * Double(columns) }
  /// Operations of a product of all rows with the Gram matrix.
  var gramOperations: Double { 2 * weights * Double(columns) }
  /// Bytes of memory traffic that choosing the most salient weights of every row takes; measured.
  var selectionBytes: Double { 160 * weights }
}
