import EspalierCore
import EspalierIO
import EspalierStageKit
import Synchronization

/// Factors in the work folders of earlier runs, to be added to those of this run.
///
/// Two factors of a site can be added if they differ only in the text. If a folder holds several such factors, that of its last run
/// is taken.
final class EarlierFactors: Sendable {
  private let folders: [String]
  /// Manifests of factors by folder, read once.
  private let known = Mutex<[String: [Manifest]]>([:])

  init(folders: [String]) { self.folders = folders }

  /// - Throws: a usage error if a folder holds no factors.
  func check() throws {
    for folder in folders where try factors(folder).isEmpty {
      throw EspalierError.usage(
        "factor.add names this folder, but it holds no factors.", subject: folder)
    }
  }

  /// The factors to add to the one whose key has these components, one for each folder.
  ///
  /// - Throws: a usage error that says why a folder has none.
  func matching(_ components: JSON, job: Job) throws -> [Manifest] {
    try folders.map { folder in
      guard
        try Folder.entry(folder + "/manifests")?.identity != Folder.entry(job.work + "/manifests")?.identity
      else {
        throw EspalierError.usage(
          "factor.add names this run's own work folder; give the run another one with --work.",
          subject: folder)
      }
      return try Self.only(try factors(folder), components, folder)
    }
  }

  /// The factors with these digests, in their order.
  ///
  /// - Throws: bad input if the bytes of one have changed since it was committed.
  func read(_ digests: [Digest]) throws -> [SiteFactor] {
    try zip(folders, digests).map { folder, digest in
      let store = try ArtifactStore(existing: folder)
      guard let manifest = try factors(folder).first(where: { $0.digest == digest }),
        let object = manifest.objects.first(where: { $0.path == SiteFactor.object })
      else { throw EspalierError.internalFault("a factor of an earlier run is not known.", subject: folder) }
      let path = store.path(manifest.key, object.path)
      let factor = try SiteFactor(path: path)
      guard try SHA256.digest(ofFile: path) == object.digest else {
        throw EspalierError.badInput(
          "the factor has changed since it was written. Run its recipe again, then this one.", subject: path)
      }
      return factor
    }
  }

  private func factors(_ folder: String) throws -> [Manifest] {
    if let found = known.withLock({ $0[folder] }) { return found }
    let factors = try ArtifactStore(existing: folder).manifests().filter {
      $0.components["stage"]?.string == Factor.descriptor.name
    }
    known.withLock { $0[folder] = factors }
    return factors
  }

  /// The factor that fits. If none passes a test, the error says which.
  private static func only(_ factors: [Manifest], _ own: JSON, _ folder: String) throws -> Manifest {
    func same(_ path: String...) -> (Manifest) -> Bool {
      func value(_ json: JSON) -> JSON? { path.reduce(Optional(json)) { $0?[$1] } }
      return { value($0.components) == value(own) }
    }
    let store = try ArtifactStore(existing: folder)
    let site = own["place"]?.string ?? "this site"
    let tests: [(failure: String, passes: (Manifest) throws -> Bool)] = [
      ("there is no factor of \(site)", same("place")),
      ("the factor of \(site) is of another model, by its configuration", same("configuration")),
      ("the factor of \(site) is of another model, by its weights", same("tensors")),
      (
        "the factor of \(site) is of another kind; set factor.kind to that of the earlier run",
        same("parameters", "kind")
      ),
      ("the factor of \(site) has another share of held-out windows", same("holdOut")),
      (
        "the factor of \(site) is of other inputs; set capture.propagate to that of the earlier run",
        same("source", "parameters", "propagate")
      ),
      (
        "the factor of \(site) was deleted; run the recipe again with factor.keep=always",
        { try store.isPresent($0) }
      ),
    ]
    var left = factors
    for test in tests {
      left = try left.filter(test.passes)
      guard !left.isEmpty else {
        throw EspalierError.usage("this folder is in factor.add, but \(test.failure).", subject: folder)
      }
    }
    if left.count > 1 {
      let last = Set(try RunHistory(work: folder).entries.map(\.manifest.key))
      left = left.filter { last.contains($0.key) }
    }
    guard left.count == 1 else {
      throw EspalierError.usage(
        "factor.add names a folder with several factors of \(site); give the work folder of a single run with propagate=dense.",
        subject: folder)
    }
    return left[0]
  }
}
