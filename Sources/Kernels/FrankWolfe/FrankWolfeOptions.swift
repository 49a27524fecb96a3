/// How a mask is refined by Frank-Wolfe.
public struct FrankWolfeOptions: Sendable {
  public enum Step: String, Sendable, CaseIterable {
    /// `2 / (t + 2)`, the paper's.
    case openLoop
    /// The best step towards the vertex.
    case lineSearch
    /// Mass moves from one entry to another by the best amount; an iteration is as many such steps as a row
    /// has entries. It converges linearly, and gives by far the tightest bounds. With one budget for the
    /// matrix entries move one by one, at a price of mass that all rows share.
    case pairwise
  }

  /// The share of the kept places, the most salient ones, that stays as it is (0...1); 0 gives lower bounds.
  public var alpha: Double
  public var iterations: Int
  public var step: Step
  /// A row ends where its gap, the most by which the relaxed optimum can be lower, is this share of its loss;
  /// 0: never.
  public var tolerance: Double
  /// What orders the kept weights for `alpha`.
  public var saliency: Saliency
  /// The Gram matrix of calibration sequences that were held out, whose losses the outcome tells.
  public var heldOut: GramMatrix?
  /// Whether a row (with ``SparsityPattern/matrix(sparsity:)`` the matrix) keeps its mask where the rounded
  /// one has no lower loss, on the held-out Gram matrix where there is one. The paper always takes the
  /// rounded mask.
  public var onlyImproves: Bool
  /// Iterations after which the products with G are made anew, so that rounding does not add up; with 1 every
  /// gradient is a dense product.
  public var refreshInterval: Int
  /// Whether the outcome holds the relaxed mask.
  public var keepsRelaxed: Bool

  public init(
    alpha: Double = 0.9, iterations: Int = 2000, step: Step = .openLoop, tolerance: Double = 0,
    saliency: Saliency = .wanda, heldOut: GramMatrix? = nil, onlyImproves: Bool = false,
    refreshInterval: Int = 100,
    keepsRelaxed: Bool = false
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
  /// Rows whose mask stayed what it was, because the rounded one has no lower loss; 0 where the options take
  /// it anyway.
  public var rowsKept = 0
  /// The losses on the held-out Gram matrix, where there is one.
  public var heldOutBefore: Double?
  public var heldOutAfter: Double?
  /// Lower bounds of the loss of any mask with the pattern, where alpha is 0.
  public var certificate: Certificate?
  /// `rows x columns`, where the options ask for it.
  public var relaxed: [Float] = []

  public init() {}
}
