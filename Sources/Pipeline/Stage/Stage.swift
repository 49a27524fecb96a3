import EspalierCore
import EspalierIO

/// A step of a pipeline with its parameters.
///
/// A stage knows nothing of other stages; artifacts pass between them. ``StageRole`` says when a stage runs. What the pipeline calls
/// is in the protocols of the roles: ``CorpusStage``, ``SourceStage``, ``SiteStage``, ``AllocationStage``, ``MatrixStage``,
/// ``OutputStage`` and ``EvaluationStage``.
public protocol Stage: Sendable {
  /// Files, besides those named in the parameters, whose content decides the result; by a name for the key.
  ///
  /// - Throws: an I/O error if they cannot be listed.
  func sourceFiles(of checkpoint: Checkpoint) throws -> [String: String]

  /// Finds mistakes that can be known before any tensor is read.
  ///
  /// - Throws: a usage error.
  func check(_ model: ModelOutline, checkpoint: Checkpoint) throws

  /// Bytes of memory that one unit needs, by purpose, including the mapped pages that it holds.
  func workingSet(_ sizes: UnitSizes) -> WorkingSet

  /// What one unit computes. The pipeline itself adds what the unit reads of the checkpoint and of other units, and what it writes.
  func work(_ sizes: UnitSizes) -> Work

  /// Bytes that one unit leaves in the work folder.
  func artifactBytes(_ sizes: UnitSizes) -> Int
}

extension Stage {
  public func sourceFiles(of checkpoint: Checkpoint) -> [String: String] { [:] }
  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws {}
  public func workingSet(_ sizes: UnitSizes) -> WorkingSet { WorkingSet() }
  public func work(_ sizes: UnitSizes) -> Work { Work() }
  public func artifactBytes(_ sizes: UnitSizes) -> Int { 0 }
}
