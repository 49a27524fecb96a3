import EspalierCore
import EspalierIO

/// Writes the pruned model outside of the work folder, from the last mask of every matrix.
public protocol OutputStage: Stage {
  /// Whether what it wrote outside of the work folder is still there.
  func outputIsPresent(_ key: Digest, job: Job) throws -> Bool
  /// Finds reasons why the output cannot be written, before any work.
  ///
  /// - Throws: a usage error.
  func checkOutput(job: Job) throws
  func run(_ unit: UnitContext) throws -> OutputReport
}

extension OutputStage {
  public func checkOutput(job: Job) throws {}
}

/// Measures the pruned model that an ``OutputStage`` wrote.
public protocol EvaluationStage: Stage {
  /// Why it has nothing to do with its parameters; nil if it has something to do.
  var idleReason: String? { get }
  func run(_ unit: UnitContext) throws -> EvaluationReport
}
