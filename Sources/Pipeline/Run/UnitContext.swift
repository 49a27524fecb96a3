import EspalierCore
import EspalierIO

/// What a stage sees of the unit that it works on.
public struct UnitContext: Sendable {
  public let job: Job
  public let unit: Unit
  public let key: Digest
  /// The parts of the key, by name.
  public let components: JSON
  /// A new folder for the unit's objects; what stands in it when the work is done is committed.
  public let folder: String
  let inputs: [(unit: Unit, key: Digest, report: JSON)]
  let needs: UnitNeeds
  let store: ArtifactStore
  let progress: ProgressReporter
  let keys: UnitKeys

  public var checkpoint: Checkpoint { job.checkpoint }
  public var model: ModelOutline { job.model }

  /// The matrix of a matrix unit.
  public var matrix: ModelOutline.Matrix? { unit.matrix }

  /// The site of a site unit.
  public var site: ModelOutline.Site? {
    guard case .site(let index) = unit.role, let block = unit.block else { return nil }
    return model.blocks[block].sites[index]
  }

  /// The sizes by which the plan counted the unit's memory.
  public var sizes: UnitSizes { needs.sizes(unit) }

  /// Path of an object of the only input of this kind.
  ///
  /// - Throws: an internal fault where there is none.
  public func input(_ kind: ArtifactKind, _ object: String) throws -> String {
    guard let input = inputs.last(where: { $0.unit.kind == kind }) else {
      throw EspalierError.internalFault("the unit \(unit.id) has no input \(kind.name).")
    }
    return store.path(input.key, object)
  }

  /// The report of the only input of this kind.
  public func inputReport(_ kind: ArtifactKind) -> JSON {
    inputs.last { $0.unit.kind == kind }?.report ?? .null
  }

  /// The input artifacts of this kind that belong to a matrix, with their folders and reports.
  public func matrixInputs(_ kind: ArtifactKind) -> [(
    matrix: ModelOutline.Matrix, folder: String, report: JSON
  )] {
    inputs.compactMap { unit, key, report in
      guard unit.kind == kind, let matrix = unit.matrix else { return nil }
      return (matrix, store.path(key), report)
    }
  }

  /// For a stage that writes outside of its folder: throws where a source file is not the one that went into its key, or could not
  /// be read.
  public func requireSameSources() throws { try keys.requireSameFiles() }

  /// Tells the user something that should be read.
  public func note(_ text: String) { progress.note(text) }

  /// Tells the user how far the unit is, and throws where the user asked to stop or the checkpoint could not be read.
  public func advance(_ done: Int, of total: Int) throws {
    try Interruption.check()
    try checkpoint.requireReadable()
    progress.unitProgress(done, of: total)
  }
}
