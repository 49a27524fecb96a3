import EspalierCore

/// The smallest piece of work that is done whole or not at all: a stage at a place, with one artifact.
public struct Unit: Sendable {
  /// What a unit is to the pipeline.
  public enum Role: Sendable, Hashable {
    case corpus
    case embed
    /// Condenses one site's inputs while the block streams.
    case site(Int)
    /// Hidden states after the block.
    case advance
    case matrix(ModelOutline.Matrix)
    /// How sparse every matrix becomes.
    case allocation
    case model
  }

  /// `swap/model.layers.0.mlp.down_proj`, `factor/3/mlp`, `capture/4`: unique in a graph.
  public let id: String
  /// Index of the stage in the recipe.
  public let entry: Int
  public let role: Role
  public let block: Int?
  /// What it writes.
  public let kind: ArtifactKind
  /// Units whose artifacts it reads, earlier in the graph.
  public let inputs: [Int]
  /// Tensors of the checkpoint whose content goes into its key.
  public let tensors: UnitTensors
  /// Units with the same pass stream together.
  public let pass: Int?
  /// Whether its bytes are freed when all its readers are done.
  public let isTransient: Bool
  /// The share of the calibration sequences that a site's factor keeps apart.
  public let holdOut: Double
  /// The pattern of the mask that it makes, as far as it is known before any work.
  public var pattern: SparsityPattern? = nil
  /// Index of the site in its block whose factor belongs to the unit's matrix.
  public var site: Int? = nil

  /// The matrix of a matrix unit.
  public var matrix: ModelOutline.Matrix? { if case .matrix(let matrix) = role { matrix } else { nil } }
}
