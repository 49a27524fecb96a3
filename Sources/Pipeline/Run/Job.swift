import EspalierCore
import EspalierIO

/// One pruning job: a recipe, a checkpoint, and the folders to write to.
public struct Job: Sendable {
  public let recipe: Recipe
  public let checkpoint: Checkpoint
  public let model: ModelOutline
  /// What the job writes outside of the work folder, in the order of its stages.
  public let outputs: [JobOutput]
  /// Folder of the artifacts.
  public let work: String
  /// Bytes of memory that the job may use.
  public let memory: Int
  /// Who computes.
  public let device: Device
  /// How it computes, with the precision of the forward pass.
  public let arithmetic: Arithmetic

  /// - Parameter output: path of the output, from which stages choose the paths of theirs.
  /// - Throws: an I/O error if the checkpoint cannot be read.
  public init(
    recipe: Recipe, checkpoint: Checkpoint, model: ModelOutline, output: String, work: String, memory: Int,
    device: Device, arithmetic: Arithmetic
  ) throws {
    self.recipe = recipe
    self.checkpoint = checkpoint
    self.model = model
    self.work = work
    self.memory = memory
    self.device = device
    var arithmetic = arithmetic
    outputs = try recipe.stages(\.output).map { try $0.stage.output(of: checkpoint, path: output) }
    arithmetic.precision = recipe.stages(\.source).first?.stage.precision(of: checkpoint) ?? .f32
    self.arithmetic = arithmetic
  }

  /// How a unit computes.
  func arithmetic(of unit: Unit) -> Arithmetic {
    var arithmetic = arithmetic
    if let stage = recipe.entries[unit.entry].role.evaluation {
      arithmetic.precision = stage.precision(of: checkpoint)
    }
    return arithmetic
  }

  /// What a unit writes outside of the work folder.
  func output(of unit: Unit) -> JobOutput? {
    recipe.stages(\.output).firstIndex { $0.index == unit.entry }.map { outputs[$0] }
  }
}
