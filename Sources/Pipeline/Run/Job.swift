import EspalierCore
import EspalierIO

/// One pruning job: a recipe, a checkpoint, and where things go.
public struct Job: Sendable {
  public let recipe: Recipe
  public let checkpoint: Checkpoint
  public let model: ModelOutline
  /// Folder of the pruned checkpoint.
  public let output: String
  /// Where the pruned checkpoint is written before it is complete, under a lock for the whole run; removed at its end.
  public var partialOutput: String { output + ".partial" }
  /// Folder of the artifacts.
  public let work: String
  /// Bytes of memory that the job may use.
  public let memory: Int
  public let threads: Int

  /// How the forward pass computes products.
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
    precision = (recipe.source?.stage as? any SourceStage)?.precision(of: checkpoint) ?? .f32
  }
}
