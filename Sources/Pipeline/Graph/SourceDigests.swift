import EspalierCore
import EspalierIO
import Synchronization

/// Content digests of the checkpoint's tensors and of other source files.
///
/// They are saved in the work folder with the identity of the file (size, time of change, file number), so that a second run
/// does not have to read a large checkpoint to know that it is the same.
///
/// If a file changes during a run, new bytes could be used under the old key, or old bytes under the new one;
/// ``requireSameFiles()`` finds this.
final class SourceDigests: Sendable {
  private struct Record {
    var identity: String
    var digests: [String: Digest]
    /// Whether this process has used it for a key.
    var isUsed = false
  }

  /// Thrown in place of reading a file whose digest is not saved.
  struct Unknown: Error {}

  private let checkpoint: Checkpoint
  /// Whether only saved digests are given, and no file is read.
  private let onlyKnown: Bool
  /// Tensors that must be finite.
  private let finite: Set<String>
  private let path: String
  private let records: Mutex<[String: Record]>
  /// Digests of whole blocks, which are in many keys.
  private let blocks = Mutex<[Int: Digest]>([:])
  /// How many digests are not saved yet.
  private let unsaved = Mutex(0)

  init(checkpoint: Checkpoint, finite: Set<String> = [], work: String, onlyKnown: Bool = false) {
    self.checkpoint = checkpoint
    self.onlyKnown = onlyKnown
    self.finite = finite
    path = work + "/sources.json"
    var records: [String: Record] = [:]
    // The file is a cache: if it cannot be read, the digests are computed again.
    let json = (try? Folder.entry(path)) != nil ? try? Folder.readJSON(path).opened()?[Self.member] : nil
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

  /// The member of the cache's file. Earlier versions wrote `sources`, with digests of tensors that were not known to be finite.
  private static let member = "finiteSources"

  /// The digest of one tensor: of its type, its shape, and the bytes as the shard holds them.
  ///
  /// So a compact matrix and a dense one of the same weights are different sources, though all that is computed from them is the same:
  /// the digest pass reads each byte of the shards once, and has nothing to expand.
  ///
  /// - Throws: bad input that names the place if the tensor must be finite and is not.
  func tensor(_ name: String) throws -> Digest {
    guard let tensor = checkpoint.tensors[name] else {
      throw EspalierError.badInput("the tensor \(name) is missing.", subject: checkpoint.folder)
    }
    let parts = try digests(ofParts: tensor)
    guard case .compact = tensor else { return parts[0] }
    return SHA256.digest(
      of:
        "compact \(tensor.dtype?.rawValue ?? "?") \(tensor.shape) \(parts.map(\.hex).joined(separator: " "))")
  }

  /// Tensors whose digests are not known, with their bytes.
  func unknown() -> [(name: String, bytes: Int)] {
    checkpoint.tensors.sorted { $0.key < $1.key }.filter { _, tensor in
      records.withLock { records in
        tensor.parts.contains {
          let record = records[$0.file.path]
          return record?.identity != $0.file.identity || record?.digests[$0.name] == nil
        }
      }
    }.map { ($0, $1.byteCount) }
  }

  /// The digests of what is stored of a tensor.
  func digests(ofParts name: String) throws -> [Digest] {
    try checkpoint.tensors[name].map(digests(ofParts:)) ?? []
  }

  private func digests(ofParts tensor: CheckpointTensor) throws -> [Digest] {
    try tensor.parts.map { try part($0, requiringFinite: finite.contains(tensor.name)) }
  }

  /// Takes digests that another process computed.
  func adopt(_ digests: [Digest], of name: String) throws {
    let parts = checkpoint.tensors[name]?.parts ?? []
    for (part, digest) in zip(parts, digests) {
      _ = try self.digest(of: part.file.path, part.file.identity, part: part.name) { digest }
    }
  }

  private func part(_ tensor: StoredTensor, requiringFinite: Bool) throws -> Digest {
    try digest(of: tensor.file.path, tensor.file.identity, part: tensor.name) {
      let bytes = try tensor.digest(requiringFinite: requiringFinite)
      return SHA256.digest(of: "\(tensor.dtype?.rawValue ?? "?") \(tensor.shape) \(bytes.hex)")
    }
  }

  /// One digest for several tensors and their names, without those that the checkpoint lacks (a tied head).
  func tensors(_ names: [String]) throws -> Digest {
    let lines = try names.filter { checkpoint.tensors[$0] != nil }.map { "\($0) \(try tensor($0).hex)\n" }
    return SHA256.digest(of: lines.joined())
  }

  /// One digest for all tensors of a block.
  func block(_ index: Int, of model: ModelOutline) throws -> Digest {
    if let known = blocks.withLock({ $0[index] }) { return known }
    let digest = try tensors(UnitTensors.block(index).names(in: model))
    blocks.withLock { $0[index] = digest }
    return digest
  }

  /// The digest of a whole file.
  func file(_ path: String) throws -> Digest {
    guard let identity = try Folder.entry(path)?.identity else { throw Self.gone(path) }
    return try digest(of: path, identity, part: "") { try SHA256.digest(ofFile: path) }
  }

  /// - Throws: an I/O error with the name of a file whose digest is in a key and that has changed since, or could not be read.
  func requireSameFiles() throws {
    try checkpoint.requireReadable()
    let used = records.withLock { $0.filter(\.value.isUsed).mapValues(\.identity) }
    for (file, identity) in used.sorted(by: { $0.key < $1.key }) {
      guard let now = try Folder.entry(file)?.identity else { throw Self.gone(file) }
      guard now == identity else {
        throw EspalierError(
          .io,
          "the file was changed or replaced while the run was on. What was done before is kept; run the same command again.",
          subject: file)
      }
    }
  }

  /// Saves the digests for the next run, if there are new ones.
  ///
  /// - Parameter sparingly: whether to wait until there are many new ones, since all digests are written each time.
  func save(sparingly: Bool = false) throws {
    let known = records.withLock { $0.values.reduce(0) { $0 + $1.digests.count } }
    guard unsaved.withLock({ $0 > (sparingly ? known / 16 : 0) }) else { return }
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
    try Folder.writeAtomically(
      Array(JSON.object(JSONObject([(Self.member, json)])).sealed().text.utf8), to: path,
      drafts: ArtifactStore.partial(Folder.parent(of: path)))
    unsaved.withLock { $0 = 0 }
  }

  private static func gone(_ file: String) -> EspalierError {
    EspalierError(
      .io,
      "the file is gone; it was there when the job began. Put it back, then run the same command again.",
      subject: file)
  }

  /// - Parameter identity: of the file that `compute` reads.
  private func digest(of file: String, _ identity: String, part: String, compute: () throws -> Digest) throws
    -> Digest
  {
    let known = records.withLock { records in
      // A used digest stays, so that `requireSameFiles` finds that the file has changed.
      if records[file]?.identity != identity, records[file]?.isUsed != true {
        records[file] = Record(identity: identity, digests: [:])
      }
      records[file]?.isUsed = true
      return records[file]?.digests[part]
    }
    if let known { return known }
    if onlyKnown { throw Unknown() }
    let digest = try compute()
    records.withLock { $0[file]?.digests[part] = digest }
    unsaved.withLock { $0 += 1 }
    return digest
  }
}
