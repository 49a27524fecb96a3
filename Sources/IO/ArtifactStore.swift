import EspalierCore
import Glibc

/// What is known of a committed artifact: the file `manifests/KK/KEY.json`, which exists only once all objects are on the disk.
public struct Manifest: Sendable {
  /// One file of an artifact.
  public struct Object: Sendable, Hashable {
    /// Path below the artifact's folder.
    public let path: String
    public let size: Int
    public let digest: Digest
  }

  public let key: Digest
  /// What went into the key, by name; `explain` compares them.
  public let components: JSON
  public let objects: [Object]
  /// The content's digest, which goes into the keys of what is made from it.
  public let digest: Digest
  /// What the stage reported: losses, counts, seconds.
  public let report: JSON
}

/// Immutable artifacts in a work folder, found by key.
///
/// Objects are written in a folder of their own under `partial/`, synced, and renamed to `objects/KK/KEY`; then the manifest is
/// written to a temporary name, synced and renamed. So an artifact is there whole or not at all. An artifact whose bytes were
/// released keeps its manifest: its digest stays known.
public struct ArtifactStore: Sendable {
  public let folder: String

  public init(folder: String) throws {
    self.folder = folder
    for name in ["manifests", "objects", "partial"] { try Folder.create("\(folder)/\(name)") }
  }

  /// The artifacts of an existing work folder, for reading only.
  ///
  /// - Throws: an I/O error where there is none.
  public init(existing folder: String) throws {
    guard try Folder.entry(folder + "/manifests")?.isFolder == true else {
      throw EspalierError(
        .io, "this is no work folder of espalier; give the one of a run (--work, by default OUTPUT.work).",
        subject: folder)
    }
    self.folder = folder
  }

  /// The manifest of `key`; nil where there is none or it is damaged, which is the same: the artifact is made again.
  public func manifest(_ key: Digest) throws -> Manifest? {
    let path = manifestPath(key)
    guard try Folder.entry(path) != nil else { return nil }
    guard let manifest = try? Manifest(file: Folder.readJSON(path, limit: 256 << 20)), manifest.key == key
    else { return nil }
    return manifest
  }

  /// Whether every object of the artifact is there at its right size.
  public func isPresent(_ manifest: Manifest) throws -> Bool {
    try manifest.objects.allSatisfy { try Folder.entry(path(manifest.key, $0.path))?.size == $0.size }
  }

  /// The objects whose bytes are not what was committed.
  public func damagedObjects(of manifest: Manifest) throws -> [Manifest.Object] {
    try manifest.objects.filter { object in
      let path = path(manifest.key, object.path)
      guard try Folder.entry(path)?.size == object.size else { return true }
      return try SHA256.digest(ofFile: path) != object.digest
    }
  }

  /// Path of an object of a committed artifact.
  public func path(_ key: Digest, _ object: String) -> String { "\(path(key))/\(object)" }

  /// Path of the folder of a committed artifact.
  public func path(_ key: Digest) -> String { "\(folder)/objects/\(key.hex.prefix(2))/\(key.hex)" }

  /// A new, empty folder in which the objects of `key` are to be written.
  public func begin(_ key: Digest) throws -> String {
    let path = "\(folder)/partial/\(key.hex)"
    try Folder.remove(path)
    try Folder.create(path)
    return path
  }

  /// Commits what was written into the folder that ``begin(_:)`` gave.
  ///
  /// - Parameter content: the digest of the content where it is not that of the files (a spill array's does not depend on its codec).
  public func commit(_ key: Digest, components: JSON, content: Digest? = nil, report: JSON) throws -> Manifest
  {
    let partial = "\(folder)/partial/\(key.hex)"
    let objects = try Self.objects(in: partial)
    let manifest = Manifest(
      key: key, components: components, objects: objects, digest: content ?? Self.digest(of: objects),
      report: report)
    try Folder.create(Folder.parent(of: path(key)))
    try Folder.remove(path(key))
    try Folder.move(partial, to: path(key))
    try Folder.create(Folder.parent(of: manifestPath(key)))
    try Folder.writeAtomically(Array(manifest.file.prettyText.utf8), to: manifestPath(key))
    return manifest
  }

  /// Frees the bytes of an artifact; its manifest stays.
  public func release(_ key: Digest) throws {
    let trash = "\(folder)/partial/\(key.hex).released"
    try Folder.remove(trash)
    guard try Folder.entry(path(key)) != nil else { return }
    try Folder.move(path(key), to: trash)
    try Folder.remove(trash)
  }

  /// Removes what an interrupted process left half-written; only for the holder of the work folder's lock.
  public func removePartial() throws {
    for name in try Folder.names(in: "\(folder)/partial") { try Folder.remove("\(folder)/partial/\(name)") }
  }

  /// Every readable manifest, in the order of their keys.
  public func manifests() throws -> [Manifest] {
    try Folder.names(in: "\(folder)/manifests").flatMap { prefix in
      try Folder.names(in: "\(folder)/manifests/\(prefix)").compactMap { name in
        guard name.hasSuffix(".json"), let key = Digest(hex: String(name.dropLast(5))) else { return nil }
        return try manifest(key)
      }
    }
  }

  private func manifestPath(_ key: Digest) -> String {
    "\(folder)/manifests/\(key.hex.prefix(2))/\(key.hex).json"
  }

  private static func objects(in folder: String, below prefix: String = "") throws -> [Manifest.Object] {
    var objects: [Manifest.Object] = []
    for name in try Folder.names(in: folder) {
      let path = "\(folder)/\(name)"
      guard let entry = try Folder.entry(path) else { continue }
      if entry.isFolder {
        objects += try Self.objects(in: path, below: prefix + name + "/")
      } else {
        objects.append(.init(path: prefix + name, size: entry.size, digest: try SHA256.digest(ofFile: path)))
      }
    }
    try Folder.sync(folder)
    return objects
  }

  private static func digest(of objects: [Manifest.Object]) -> Digest {
    SHA256.digest(of: objects.map { "\($0.path)\0\($0.digest.hex)\n" }.joined())
  }
}

extension Manifest {
  /// The manifest as its file holds it, with a digest of its own so that a flipped bit is found.
  fileprivate var file: JSON {
    ["manifest": body, "sha256": .string(SHA256.digest(of: body.canonical.text).hex)]
  }

  private var body: JSON {
    [
      "format": 1, "key": .string(key.hex), "digest": .string(digest.hex), "components": components,
      "objects": .array(
        objects.map {
          ["path": .string($0.path), "size": .integer($0.size), "sha256": .string($0.digest.hex)]
        }),
      "report": report,
    ]
  }

  fileprivate init?(file: JSON) {
    guard let body = file["manifest"], let sum = file["sha256"]?.string,
      SHA256.digest(of: body.canonical.text).hex == sum,
      body["format"]?.integer == 1, let key = body["key"]?.string.flatMap(Digest.init(hex:)),
      let digest = body["digest"]?.string.flatMap(Digest.init(hex:)), let list = body["objects"]?.array
    else { return nil }
    var objects: [Object] = []
    for item in list {
      guard let path = item["path"]?.string, !path.hasPrefix("/"), !path.split(separator: "/").contains(".."),
        let size = item["size"]?.integer, let digest = item["sha256"]?.string.flatMap(Digest.init(hex:))
      else { return nil }
      objects.append(Object(path: path, size: size, digest: digest))
    }
    self.init(
      key: key, components: body["components"] ?? .null, objects: objects, digest: digest,
      report: body["report"] ?? .null)
  }
}
