import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierStageKit

/// Checks the files of a pruned checkpoint against its record, or the artifacts of a work folder against their manifests.
public struct Verification: Sendable {
  /// A problem with a file, a matrix or an artifact.
  public struct Finding: Sendable {
    public let subject: String
    public let problem: String
  }

  /// Files of a checkpoint or of artifacts.
  public private(set) var checkedFiles = 0
  public private(set) var checkedMatrices = 0
  public private(set) var findings: [Finding] = []

  /// Hashes all files in `folder` and counts the zeros of every row and group.
  ///
  /// - Throws: bad input if the folder is neither a pruned checkpoint nor a work folder.
  public init(folder: String, on device: Device) throws {
    if try Folder.entry(folder + "/" + OutputRecord.fileName) != nil {
      try checkOutput(folder, on: device)
    } else if try Folder.entry(folder + "/manifests") != nil {
      try checkWork(folder)
    } else {
      guard try Folder.entry(folder) != nil else {
        throw EspalierError.missing(folder, "there is no such folder")
      }
      throw EspalierError.badInput(
        "this is neither a checkpoint that espalier wrote (no \(OutputRecord.fileName)) nor a work folder.",
        subject: folder)
    }
  }

  private mutating func checkOutput(_ folder: String, on device: Device) throws {
    let record = try OutputRecord(folder: folder)
    checkedFiles += record.files.count + record.notes.count
    findings += try record.damage(in: folder, includingNotes: true)
    guard findings.isEmpty else { return }
    let checkpoint = try Checkpoint(folder: folder)
    for matrix in record.matrices {
      checkedMatrices += 1
      let weight = try LinearWeight(checkpoint.stored(matrix.place), order: matrix.place.order, pruned: nil)
      let census = ZeroCensus(weight, on: device)
      if let row = census.firstRow(violating: matrix.pattern) {
        findings.append(
          Finding(subject: matrix.name, problem: "row \(row) keeps more than \(matrix.pattern) allows."))
      }
    }
  }

  private mutating func checkWork(_ folder: String) throws {
    let store = try ArtifactStore(existing: folder)
    findings += try store.unusableManifests().map {
      Finding(subject: $0.path, problem: "\($0.problem) The next run makes the artifact again.")
    }
    for manifest in try store.manifests() {
      // The bytes of this artifact may have been deleted on purpose.
      guard
        try manifest.objects.contains(where: { try Folder.entry(store.path(manifest.key, $0.path)) != nil })
      else { continue }
      checkedFiles += manifest.objects.count
      for object in try store.damagedObjects(of: manifest) {
        findings.append(
          Finding(
            subject: store.path(manifest.key, object.path),
            problem: "the bytes are not those that were written; the next run makes them again."))
      }
    }
  }
}
