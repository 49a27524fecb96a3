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
  /// The processes that run the job together.
  public let ranks: any Ranks
  /// Folder for this process's hidden states; nil for the work folder.
  public let scratch: String?

  /// - Parameters:
  ///   - output: path of the output, from which stages choose the paths of theirs.
  ///   - scratch: folder for hidden states, maybe on a disk of the host; if there are several ranks, by default one in the work folder.
  /// - Throws: an I/O error if the checkpoint cannot be read.
  public init(
    recipe: Recipe, checkpoint: Checkpoint, model: ModelOutline, output: String, work: String, memory: Int,
    device: Device, arithmetic: Arithmetic, ranks: any Ranks = OneRank(), scratch: String? = nil
  ) throws {
    self.recipe = recipe
    self.checkpoint = checkpoint
    self.model = model
    self.work = work
    self.memory = memory
    self.device = device
    self.ranks = ranks
    self.scratch = scratch ?? (ranks.count > 1 ? work + "/scratch" : nil)
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
