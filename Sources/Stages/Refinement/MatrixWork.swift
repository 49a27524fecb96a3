import EspalierCore
import EspalierKernels
import EspalierPipeline

extension UnitSizes {
  /// The memory of a stage that reads the Gram matrix only for losses. If it does not fit beside the `rest`, a few of its rows are
  /// in memory at a time.
  func withLossFactor(_ rest: WorkingSet) -> WorkingSet {
    var all = rest
    all.gramPages =
      keepsLossFactor(beside: rest)
      ? factorBytes
      : min(factorBytes, GramMatrix.panelByteCount(columns: matrix?.columns ?? 0, threads: threads))
    return all
  }

  /// The pattern, with any sparsity if it is not known: for memory that does not depend on it.
  var patternOfAnySparsity: SparsityPattern {
    pattern ?? (isAcrossRows ? .matrix(sparsity: 0) : .rows(sparsity: 0))
  }

  /// Rows of the factor of the Gram matrix; nil if it is whole.
  var factorRank: Int? {
    guard let matrix, factorBytes < matrix.columns * matrix.columns * 4 else { return nil }
    return factorBytes / max(1, matrix.columns * 4)
  }

  fileprivate func keepsLossFactor(beside rest: WorkingSet) -> Bool { rest.total + factorBytes <= available }
}

extension UnitSizes {
  /// Whether the targets have a shift.
  var isShifted: Bool { target != .pruned }

  /// Bytes that the shifts of the targets take in a kernel, beside the pages of their tensors.
  ///
  /// - Parameter isAcrossRows: whether the kernel holds all rows of the matrix, as those with a budget for the whole matrix do.
  func shiftByteCount(isAcrossRows: Bool = false) -> Int {
    guard let matrix, isShifted else { return 0 }
    return TargetShift.workingSet(
      rows: matrix.rows, columns: matrix.columns, isAcrossRows: isAcrossRows, threads: threads)
  }
}

extension UnitContext {
  /// What the targets of the unit's matrix have beyond the outputs of its dense rows; nil if nothing.
  ///
  /// - Parameter onHeldOut: whether on the sequences that are held out, or on the others.
  func targetShift(onHeldOut: Bool = false) throws -> TargetShift? {
    guard sizes.isShifted else { return nil }
    let factor = try factor()
    return onHeldOut ? factor.heldOutShift : factor.shift
  }

  /// The factor of the unit's site, only for losses; ``UnitSizes/withLossFactor(_:)`` computes its memory.
  func lossFactor(beside rest: (UnitSizes) -> WorkingSet) throws -> SiteFactor {
    let sizes = sizes
    return try factor(keepsPages: sizes.keepsLossFactor(beside: rest(sizes)))
  }
}

/// Parts of the work of stages.
extension ModelOutline.Matrix {
  /// Weights, `rows x columns`.
  var weights: Double { Double(rows) * Double(columns) }
  /// Operations of a product of all rows with the Gram matrix.
  var gramOperations: Double { 2 * weights * Double(columns) }
  /// Bytes of memory traffic for choosing the most salient weights of every row; measured.
  var selectionBytes: Double { 160 * weights }
}
