import EspalierCore

/// The smallest piece of work that is done completely or not at all: a stage at a place, with one artifact.
public struct Unit: Sendable {
  /// What is done for a unit.
  public enum Task: Sendable, Hashable {
    case corpus
    /// Computes the hidden states that enter the first block.
    case embed
    /// Condenses the inputs of one site, by its index in the block, while the block streams from a cut.
    case site(Int, from: ModelOutline.Cut)
    /// Computes the states at a cut from those at another; ``ModelOutline/Cut/start`` is that of the next block here.
    case propagate(from: ModelOutline.Cut, to: ModelOutline.Cut)
    case matrix(ModelOutline.Matrix)
    /// Decides how sparse every matrix becomes.
    case allocation
    /// Writes or measures the whole model.
    case model

    /// The cut from which a block streams for it.
    public var start: ModelOutline.Cut? {
      switch self {
      case .site(_, let cut), .propagate(let cut, _): cut
      default: nil
      }
    }
  }

  /// `swap/model.layers.0.mlp.down_proj`, `factor/3/mlp`, `capture/4`: unique in a graph.
  public let id: String
  /// Index of the stage in the recipe.
  public let entry: Int
  public let task: Task
  public let block: Int?
  /// What it writes.
  public let kind: ArtifactKind
  /// Units whose artifacts it reads; they are earlier in the graph.
  public let inputs: [Int]
  /// Tensors of the checkpoint whose content goes into its key.
  public let tensors: UnitTensors
  /// Units with the same pass stream together, or are matrices that a stage works on side by side.
  public let pass: Int?
  /// Whether its bytes are deleted when all its readers are done.
  public let isTransient: Bool
  /// The share of the calibration sequences that is left out of a site's factor.
  public let holdOut: Double
  /// The pattern of the mask that it makes.
  public var pattern: PlannedPattern? = nil
  /// Index of the site in its block whose factor belongs to the unit's matrix.
  public var site: Int? = nil
  /// Whether it is about the dense model although a pruned one streams: states of the dense model beside it, and factors for an
  /// allocation, which have nothing to repair.
  public var isDense = false
  /// Whether the readers of a site's factor need only the diagonal of its Gram matrix.
  public var diagonalIsEnough = false

  /// Whether the calibration windows stream for it, so that every rank that has some does a part.
  public var goesInShards: Bool {
    switch task {
    case .embed, .site, .propagate: true
    default: false
    }
  }

  /// Whether it keeps states that a block computed.
  public var isPropagation: Bool { if case .propagate = task { true } else { false } }

  /// The cut whose states it keeps.
  public var cut: ModelOutline.Cut? {
    if task == .embed { return .start }
    if case .propagate(_, let cut) = task { return cut }
    return nil
  }

  /// The site whose inputs it condenses, by its index in the block.
  public var streamedSite: Int? { if case .site(let index, _) = task { index } else { nil } }

  /// The matrix of a unit that works on one.
  public var matrix: ModelOutline.Matrix? { if case .matrix(let matrix) = task { matrix } else { nil } }
}
