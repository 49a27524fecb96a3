import EspalierCore
import EspalierIO

/// What a stage is given to work on a unit.
public struct UnitContext: Sendable {
  public let job: Job
  public let unit: Unit
  public let key: Digest
  /// The parts of the key, by name.
  public let components: JSON
  /// A new folder for the unit's objects; its files are committed when the work is done.
  public let folder: String
  let inputs: [(unit: Unit, key: Digest)]
  let needs: UnitNeeds
  let store: ArtifactStore
  let reporter: ProgressReporter
  let keys: UnitKeys

  /// Who computes.
  public var device: Device { job.device }
  public var checkpoint: Checkpoint { job.checkpoint }
  public var model: ModelOutline { job.model }

  /// The matrix of a matrix unit.
  public var matrix: ModelOutline.Matrix? { unit.matrix }

  /// The site of a site unit.
  public var site: ModelOutline.Site? {
    guard case .site(let index) = unit.task, let block = unit.block else { return nil }
    return model.blocks[block].sites[index]
  }

  /// The sizes from which the plan computed the unit's memory.
  public var sizes: UnitSizes { needs.sizes(unit) }

  /// What the unit writes outside of the work folder or, if it evaluates, what the unit that it reads wrote there.
  ///
  /// - Throws: an internal fault if there is nothing.
  public func output() throws -> JobOutput {
    let writer = unit.kind == .output ? unit : inputs.last { $0.unit.kind == .output }?.unit
    guard let output = writer.flatMap(job.output) else {
      throw EspalierError.internalFault("the unit \(unit.id) has no output.")
    }
    return output
  }

  /// Path of an object of the only input of this kind.
  ///
  /// - Throws: an internal fault if there is none.
  public func input(_ kind: ArtifactKind, _ object: String) throws -> String {
    guard let input = inputs.last(where: { $0.unit.kind == kind }) else {
      throw EspalierError.internalFault("the unit \(unit.id) has no input \(kind.rawValue).")
    }
    return store.path(input.key, object)
  }

  /// The states that the unit goes on from, with the cuts where they were kept.
  ///
  /// - Parameter isDense: whether those of the dense model that streams beside the pruned one.
  public func states(ofDense isDense: Bool, _ object: String) -> [ModelOutline.Cut: String] {
    var states: [ModelOutline.Cut: String] = [:]
    // Before the first block, both are the same.
    for (unit, key) in inputs where unit.isDense == isDense || unit.task == .embed {
      if let cut = unit.cut { states[cut] = store.path(key, object) }
    }
    return states
  }

  /// The input artifacts of this kind that belong to a matrix, with their folders.
  public func matrixInputs(_ kind: ArtifactKind) -> [(matrix: ModelOutline.Matrix, folder: String)] {
    inputs.compactMap { unit, key in
      guard unit.kind == kind, let matrix = unit.matrix else { return nil }
      return (matrix, store.path(key))
    }
  }

  /// For a stage that writes outside of its folder.
  ///
  /// - Throws: an I/O error if a source file has changed since its digest went into the key, or could not be read.
  public func requireSameSources() throws { try keys.requireSameFiles() }

  /// Digests of what the job reads.
  public func sources() throws -> JobSources { try keys.sources() }

  /// Shows the user a message.
  public func note(_ text: String) { reporter.note(text) }

  /// Shows the user how far the unit is.
  ///
  /// - Throws: `interrupted` if the user asked to stop; an I/O error if the checkpoint could not be read.
  public func progress(_ done: Int, of total: Int) throws {
    try requireRunning()
    try checkpoint.requireReadable()
    reporter.report(done, of: total)
  }

  /// For a stage that waits.
  ///
  /// - Throws: `interrupted` if the user asked to stop.
  public func requireRunning() throws { try Interruption.check() }
}
