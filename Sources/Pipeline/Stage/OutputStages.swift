import EspalierCore
import EspalierIO

/// Writes the pruned model outside of the work folder, from the last mask of every matrix.
public protocol OutputStage: Stage {
  /// What it will write.
  ///
  /// - Parameter path: the path that the user chose for the output.
  /// - Throws: an I/O error if the checkpoint cannot be read.
  func output(of checkpoint: Checkpoint, path: String) throws -> JobOutput
  /// Checks that what is already at the output's path, if anything, may be replaced or reused.
  ///
  /// - Throws: a usage error.
  func check(existing output: JobOutput, job: Job) throws
  /// Whether the output is complete and undamaged.
  ///
  /// - Parameter key: of the unit that wrote it.
  func isPresent(_ output: JobOutput, key: Digest) throws -> Bool
  /// Whether all ranks of a job write parts of it; then each calls ``run(_:)``.
  var isShared: Bool { get }
  /// Writes the output; a rank that is not the unit's owner helps it, and what it returns does not count.
  func run(_ unit: UnitContext) throws -> OutputReport
  /// Called when all units of a job are done, also if an earlier run did them: notes in the output what only the end of a job knows.
  ///
  /// - Parameters:
  ///   - key: of the unit that wrote the output.
  ///   - evaluations: what was measured of it, by stage.
  func conclude(
    _ output: JobOutput, key: Digest, job: Job, sources: JobSources,
    evaluations: [(stage: String, report: EvaluationReport)]) throws
}

extension OutputStage {
  public var isShared: Bool { false }
  public func check(existing output: JobOutput, job: Job) throws {}
  public func conclude(
    _ output: JobOutput, key: Digest, job: Job, sources: JobSources,
    evaluations: [(stage: String, report: EvaluationReport)]
  ) throws {}
}

/// Measures the pruned model that an ``OutputStage`` wrote.
public protocol EvaluationStage: Stage {
  /// Why it has nothing to do with its parameters; nil if it has something to do.
  var idleReason: String? { get }
  /// Precision of the products of its forward passes.
  func precision(of checkpoint: Checkpoint) -> Precision
  func run(_ unit: UnitContext) throws -> EvaluationReport
}

extension EvaluationStage {
  public var idleReason: String? { nil }
  public func precision(of checkpoint: Checkpoint) -> Precision { .f32 }
}
