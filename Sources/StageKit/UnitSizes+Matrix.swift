import EspalierCore
import EspalierKernels
import EspalierPipeline

/// What a stage that works on matrices needs to plan its memory.
extension UnitSizes {
  /// The memory of a stage that reads the Gram matrix only for losses. If it does not fit beside the `rest`, a few of its rows are
  /// in memory at a time.
  public func withLossFactor(_ rest: WorkingSet) -> WorkingSet {
    var all = rest
    all.gramPages =
      keepsLossFactor(beside: rest)
      ? factorBytes
      : min(factorBytes, GramMatrix.panelByteCount(columns: matrix?.columns ?? 0, threads: threads))
    return all
  }

  func keepsLossFactor(beside rest: WorkingSet) -> Bool { rest.total + factorBytes <= available }

  /// The pattern, with any sparsity if it is not known: for memory that does not depend on it.
  public var patternOfAnySparsity: SparsityPattern {
    pattern ?? (isAcrossRows ? .matrix(sparsity: 0) : .rows(sparsity: 0))
  }

  /// Rows of the factor of the Gram matrix; nil if it is whole.
  public var factorRank: Int? {
    guard let matrix, factorBytes < matrix.columns * matrix.columns * 4 else { return nil }
    return factorBytes / max(1, matrix.columns * 4)
  }

  /// Bytes of the mask of the unit's matrix.
  public var maskBytes: Int { matrix.map { $0.rows * Mask.rowBytes($0.columns) } ?? 0 }

  /// Bytes of computing the loss of a mask; 0 if the unit reads no Gram matrix.
  public var lossByteCount: Int {
    guard let matrix, readsGram else { return 0 }
    return Loss.workingSet(rows: matrix.rows, columns: matrix.columns, rank: factorRank, threads: threads)
  }

  /// Whether the targets have a shift.
  public var isShifted: Bool { target != .pruned }

  /// Bytes that the shifts of the targets take in a kernel, beside the pages of their tensors.
  ///
  /// - Parameter isAcrossRows: whether the kernel holds all rows of the matrix, as those with a budget for the whole matrix do.
  public func shiftByteCount(isAcrossRows: Bool = false) -> Int {
    guard let matrix, isShifted else { return 0 }
    return TargetShift.workingSet(
      rows: matrix.rows, columns: matrix.columns, isAcrossRows: isAcrossRows, threads: threads)
  }

  /// Bytes of writing `rows` rows of fitted weights at a time.
  public func writingByteCount(rows: Int) -> Int {
    guard let columns = matrix?.columns else { return 0 }
    return RoundedWeights.workingSet(rows: rows, columns: columns, weightBytes: weightBytes)
      + Loss.updateWorkingSet(rows: rows, columns: columns, rank: factorRank, threads: threads)
  }
}

/// Parts of the work of stages.
extension ModelOutline.Matrix {
  /// Weights, `rows x columns`.
  public var weights: Double { Double(rows) * Double(columns) }
  /// Operations of a product of all rows with the Gram matrix.
  public var gramOperations: Double { 2 * weights * Double(columns) }
  /// Bytes of memory traffic for choosing the most salient weights of every row; measured.
  public var selectionBytes: Double { 160 * weights }
}
