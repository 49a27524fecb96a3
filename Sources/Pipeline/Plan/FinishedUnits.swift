import EspalierCore
import EspalierIO

/// The units of a job that earlier runs have done, as far as it can be told without reading a tensor or a text.
struct FinishedUnits {
  private let job: Job
  private let graph: UnitGraph
  private let keys: UnitKeys
  /// Nil if there is no work folder yet.
  private let store: ArtifactStore?

  /// - Throws: a usage error if a later version made the work folder.
  init(_ job: Job, _ graph: UnitGraph) throws {
    self.job = job
    self.graph = graph
    let isThere = try Folder.entry(job.work + "/manifests") != nil
    store = isThere ? try ArtifactStore(existing: job.work) : nil
    keys = UnitKeys(job: job, graph: graph, onlyKnown: true)
  }

  /// The content of a unit's artifact and whether its bytes are there; nil if it is not done.
  ///
  /// - Parameter digest: gives the contents of its inputs.
  func find(_ unit: Int, digest: (Int) -> Digest?) throws -> (digest: Digest, isPresent: Bool)? {
    guard let store, let components = try components(unit, digest),
      let manifest = try store.manifest(UnitKeys.key(components))
    else { return nil }
    let output = job.output(of: graph.units[unit])
    let isPresent = try store.isPresent(manifest) && output.map { try Folder.entry($0.path) != nil } ?? true
    if !isPresent, graph.readers[unit].isEmpty || output != nil { return nil }
    return (manifest.digest, isPresent)
  }

  private func components(_ unit: Int, _ digest: (Int) -> Digest?) throws -> JSON? {
    do {
      return try keys.components(unit, digest: digest)
    } catch is SourceDigests.Unknown {
      return nil
    }
  }
}
