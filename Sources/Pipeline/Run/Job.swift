import EspalierCore
import EspalierIO

/// One pruning job: a recipe, a checkpoint, and the folders to write to.
public struct Job: Sendable {
  public let recipe: Recipe
  public let checkpoint: Checkpoint
  public let model: ModelOutline
  /// Folder of the pruned checkpoint.
  public let output: String
  /// Folder in which the pruned checkpoint is written until it is complete. It is locked during the whole run and removed at the end.
  public var partialOutput: String { output + ".partial" }
  /// Folder of the artifacts.
  public let work: String
  /// Bytes of memory that the job may use.
  public let memory: Int
  public let threads: Int

  /// Precision of products in the forward pass.
  public let precision: Precision

  public init(
    recipe: Recipe, checkpoint: Checkpoint, model: ModelOutline, output: String, work: String, memory: Int,
    threads: Int
  ) {
    self.recipe = recipe
    self.checkpoint = checkpoint
    self.model = model
    self.output = output
    self.work = work
    self.memory = memory
    self.threads = threads
    precision = recipe.stages(\.source).first?.stage.precision(of: checkpoint) ?? .f32
  }
}
