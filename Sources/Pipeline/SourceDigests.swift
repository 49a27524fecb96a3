import EspalierCore
import EspalierIO
import Synchronization

/// Content digests of the checkpoint's tensors and of other source files.
///
/// They are remembered in the work folder with the identity (size, time of change, file number) of the file, so that a
/// second run does not read a large checkpoint again to know that it is the same.
final class SourceDigests: Sendable {
  private struct Record {
    var identity: String
    var digests: [String: Digest]
  }

  private let checkpoint: Checkpoint
  private let path: String
  private let records: Mutex<[String: Record]>

  init(checkpoint: Checkpoint, work: String) {
    self.checkpoint = checkpoint
    path = work + "/sources.json"
    var records: [String: Record] = [:]
    // A cache: where it cannot be read, the digests are computed again.
    let json = (try? Folder.entry(path)) != nil ? try? Folder.readJSON(path) : nil
    for (file, value) in json?.object?.members ?? [] {
      guard let identity = value["identity"]?.string else { continue }
      let digests = value["digests"]?.object?.members.compactMap { member in
        member.value.string.flatMap(Digest.init(hex:)).map { (member.key, $0) }
      }
      records[file] = Record(
        identity: identity, digests: Dictionary(digests ?? [], uniquingKeysWith: { first, _ in first }))
    }
    self.records = Mutex(records)
  }

  /// The digest of one tensor's bytes with its type and shape.
  func tensor(_ name: String) throws -> Digest {
    guard let (shard, entry) = checkpoint.tensors[name] else {
      throw EspalierError.badInput("the tensor \(name) is missing.", subject: checkpoint.folder)
    }
    return try digest(of: "\(checkpoint.folder)/\(shard)", part: name) {
      let bytes = try checkpoint.mapped(entry, shard: shard).digest()
      return SHA256.digest(of: "\(entry.dtype?.rawValue ?? "?") \(entry.shape) \(bytes.hex)")
    }
  }

  /// One digest for several tensors, their names included; those that the file does not hold (a tied head) are left out.
  func tensors(_ names: [String]) throws -> Digest {
    let lines = try names.filter { checkpoint.tensors[$0] != nil }.map { "\($0) \(try tensor($0).hex)\n" }
    return SHA256.digest(of: lines.joined())
  }

  /// The digest of a whole file.
  func file(_ path: String) throws -> Digest {
    try digest(of: path, part: "") { try SHA256.digest(ofFile: path) }
  }

  /// Writes the digests down for the next run.
  func save() throws {
    let json = records.withLock { records in
      JSON.object(
        JSONObject(
          records.sorted { $0.key < $1.key }.map { file, record in
            let digests = record.digests.sorted { $0.key < $1.key }.map {
              (key: $0.key, value: JSON.string($0.value.hex))
            }
            return (
              key: file,
              value: ["identity": .string(record.identity), "digests": .object(JSONObject(digests))]
            )
          }))
    }
    try Folder.writeAtomically(Array(json.text.utf8), to: path)
  }

  private func digest(of file: String, part: String, compute: () throws -> Digest) throws -> Digest {
    guard let identity = try Folder.entry(file)?.identity else {
      throw EspalierError(
        .io,
        "the file is gone; it was there when the job began. Put it back, then run the same command again.",
        subject: file)
    }
    let known = records.withLock { records in
      records[file]?.identity == identity ? records[file]?.digests[part] : nil
    }
    if let known { return known }
    let digest = try compute()
    records.withLock { records in
      if records[file]?.identity != identity { records[file] = Record(identity: identity, digests: [:]) }
      records[file]?.digests[part] = digest
    }
    return digest
  }
}
