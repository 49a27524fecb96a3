import EspalierCore

/// How a mask is refined by Frank-Wolfe.
public struct FrankWolfeOptions: Sendable {
  public enum Step: String, Sendable, CaseIterable {
    /// `2 / (t + 2)`, the paper's.
    case openLoop
    /// The best step towards the vertex.
    case lineSearch
    /// Mass moves from one entry to another by the best amount; an iteration is as many such steps as a row has entries. It converges
    /// linearly, and gives by far the tightest bounds. With one budget for the matrix entries move one by one, at a price of mass that
    /// all rows share.
    case pairwise
  }

  /// The share of the kept places, the most salient ones, that stays as it is (0...1); 0 gives lower bounds.
  public var alpha: Double
  public var iterations: Int
  public var step: Step
  /// A row ends when its gap, the most by which the relaxed optimum can be lower, is this share of its loss; 0: never.
  public var tolerance: Double
  /// What orders the kept weights for `alpha`.
  public var saliency: Saliency
  /// The Gram matrix of held-out calibration sequences, for the losses on them.
  public var heldOut: GramMatrix?
  /// Whether a row (with ``SparsityPattern/matrix(sparsity:)`` the matrix) keeps its mask unless the rounded one has a lower loss, on
  /// the held-out Gram matrix if there is one. The paper always takes the rounded mask.
  public var onlyImproves: Bool
  /// Iterations after which the products with G are computed from scratch, so that rounding does not add up; with 1 every gradient is a
  /// dense product.
  public var refreshInterval: Int
  /// Whether the outcome holds the relaxed mask.
  public var keepsRelaxed: Bool

  public init(
    alpha: Double = 0.9, iterations: Int = 2000, step: Step = .openLoop, tolerance: Double = 0,
    saliency: Saliency = .wanda, heldOut: GramMatrix? = nil, onlyImproves: Bool = false,
    refreshInterval: Int = 100, keepsRelaxed: Bool = false
  ) {
    precondition((0...1).contains(alpha) && iterations >= 0 && tolerance >= 0 && refreshInterval > 0)
    self.alpha = alpha
    self.iterations = iterations
    self.step = step
    self.tolerance = tolerance
    self.saliency = saliency
    self.heldOut = heldOut
    self.onlyImproves = onlyImproves
    self.refreshInterval = refreshInterval
    self.keepsRelaxed = keepsRelaxed
  }

  /// Whether rows keep the x with the highest bound: pairwise steps end there.
  var keepsBest: Bool { alpha == 0 && step != .pairwise }

  /// Bytes that ``frankWolfe(_:gram:mask:options:on:progress:)`` takes, without the pages of the weight and the Gram matrix and without
  /// a relaxed mask in the outcome.
  ///
  /// - Parameters:
  ///   - pattern: nil if it is not known; then any.
  ///   - rank: the rows of the factor of the Gram matrix; nil if it is whole.
  public func workingSet(rows: Int, columns: Int, pattern: SparsityPattern?, rank: Int?, threads: Int) -> Int
  {
    guard let pattern else {
      return max(
        workingSet(rows: rows, columns: columns, pattern: .rows(sparsity: 0), rank: rank, threads: threads),
        workingSet(rows: rows, columns: columns, pattern: .matrix(sparsity: 0), rank: rank, threads: threads))
    }
    let isShared = if case .matrix = pattern { true } else { false }
    let block = min(RowBlock.mostRows, rows)
    let held = RelaxedRows.byteCount(
      rows: isShared ? rows : block, columns: columns, keepsBest: keepsBest && !isShared)
    let outside = RowBlock.prunedByteCount(rows: rows, columns: columns)
    let workers = min(threads, block)
    let losses =
      outside
      + max(
        workers * RowScratch.byteCount(columns: columns),
        GramMatrix.formsByteCount(rows: block, columns: columns, rank: rank, threads: threads),
        GramMatrix.productByteCount(rows: block, rank: rank))
    let steps =
      VertexChanges.byteCount(rows: block, columns: columns) + outside
      + max(
        workers * RowScratch.byteCount(columns: columns), GramMatrix.productByteCount(rows: block, rank: rank)
      )
    let pairs = step == .pairwise ? workers * PairScratch.byteCount(columns: columns) : 0
    let selection = workers * SelectionScratch.byteCount(columns: columns)
    let bounds =
      alpha == 0 ? RelaxedRows.boundsByteCount(rows: rows, columns: columns, threads: threads) : 0
    // Pairwise steps over a matrix fall back to others if nothing can move.
    let descends = step != .pairwise || isShared
    return held + max(losses, descends ? steps : 0, pairs, selection, bounds)
  }
}

/// What refining one matrix by Frank-Wolfe did.
public struct FrankWolfeOutcome: Sendable {
  /// Sum over the rows of `((1-m).w)^T G ((1-m).w)` for the masks before and after.
  public var lossBefore = 0.0
  public var lossAfter = 0.0
  /// The loss of the relaxed mask, before it was rounded.
  public var relaxedLoss = 0.0
  /// How much lower than `relaxedLoss` the relaxed optimum can be at most (with what alpha freezes).
  public var gap = 0.0
  /// Iterations of all rows.
  public var rowIterations = 0
  /// The mean share of a row's entries that entered or left the vertex in an iteration.
  public var changedShare = 0.0
  /// Rows whose mask stayed what it was, because the rounded one has no lower loss; 0 if the options take it anyway.
  public var rowsKept = 0
  /// The losses on the held-out Gram matrix, if there is one.
  public var heldOutBefore: Double?
  public var heldOutAfter: Double?
  /// Lower bounds of the loss of any mask with the pattern, if alpha is 0.
  public var certificate: Certificate?
  /// `rows x columns`, if the options ask for it.
  public var relaxed: [Float] = []

  public init() {}
}
