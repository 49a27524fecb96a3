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
  /// Who computes.
  public let device: Device
  /// How it computes, with the precision of the forward pass.
  public let arithmetic: Arithmetic

  public init(
    recipe: Recipe, checkpoint: Checkpoint, model: ModelOutline, output: String, work: String, memory: Int,
    device: Device, arithmetic: Arithmetic
  ) {
    self.recipe = recipe
    self.checkpoint = checkpoint
    self.model = model
    self.output = output
    self.work = work
    self.memory = memory
    self.device = device
    var arithmetic = arithmetic
    arithmetic.precision = (recipe.source?.stage as? any SourceStage)?.precision(of: checkpoint) ?? .f32
    self.arithmetic = arithmetic
  }
}
