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

    init(path: String, size: Int, digest: Digest) {
      self.path = path
      self.size = size
      self.digest = digest
    }

    /// The file `file` as the object `path`.
    public init(path: String, at file: String) throws {
      self.init(path: path, size: try Folder.entry(file)?.size ?? 0, digest: try SHA256.digest(ofFile: file))
    }
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

  /// The artifacts of a work folder, which is made where there is none.
  ///
  /// - Throws: a usage error where a later version made it.
  public init(folder: String) throws {
    self.folder = folder
    try checkFormat()
    for name in ["manifests", "objects", "partial"] { try Folder.create("\(folder)/\(name)") }
    if try Folder.entry(formatPath) == nil {
      let mark: JSON = ["format": .integer(Self.format)]
      try Folder.writeAtomically(Array((mark.sealed().text + "\n").utf8), to: formatPath)
    }
  }

  /// The artifacts of an existing work folder, for reading only.
  ///
  /// - Throws: an I/O error where there is none; a usage error where a later version made it.
  public init(existing folder: String) throws {
    guard try Folder.entry(folder + "/manifests")?.isFolder == true else {
      throw EspalierError(
        .io, "this is no work folder of espalier; give the one of a run (--work, by default OUTPUT.work).",
        subject: folder)
    }
    self.folder = folder
    try checkFormat()
  }

  /// How the folder is laid out; whoever changes that raises this number.
  private static let format = 1
  private var formatPath: String { folder + "/format.json" }

  /// A format that cannot be read is none: nothing in it is needed.
  private func checkFormat() throws {
    guard try Folder.entry(formatPath) != nil,
      let format = (try? Folder.readJSON(formatPath, limit: 4096))?.opened()?["format"]?.integer,
      format > Self.format
    else { return }
    throw EspalierError.usage(
      "a later version of espalier made this work folder (format \(format), this one knows \(Self.format)); use that version, or choose another folder with --work.",
      subject: folder)
  }

  /// The manifest of `key`; nil where there is none, or none that this version can read, which is the same: the artifact is made again.
  public func manifest(_ key: Digest) throws -> Manifest? {
    let path = manifestPath(key)
    guard try Folder.entry(path) != nil else { return nil }
    guard let manifest = try? Manifest(file: Folder.readJSON(path, limit: Manifest.longest)),
      manifest.key == key
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
  public func manifests() throws -> [Manifest] { try keys().compactMap { try manifest($0) } }

  /// Paths of manifests that are there but cannot be used, and why.
  public func unusableManifests() throws -> [(path: String, problem: String)] {
    try keys().filter { try manifest($0) == nil }.map { key in
      let path = manifestPath(key)
      let body = (try? Folder.readJSON(path, limit: Manifest.longest))?.opened()
      guard let format = body?["format"]?.integer, format >= 1, format != Manifest.format else {
        return (path, "the manifest is not what was written.")
      }
      return (
        path,
        "\(format > Manifest.format ? "a later" : "an earlier") version of espalier wrote this manifest (format \(format), this one knows \(Manifest.format))."
      )
    }
  }

  /// The keys that files below `manifests/` are named after; whatever else lies there is none of ours.
  private func keys() throws -> [Digest] {
    let prefixes = try Folder.names(in: "\(folder)/manifests")
    return try prefixes.filter { try Folder.entry("\(folder)/manifests/\($0)")?.isFolder == true }.flatMap {
      prefix in
      try Folder.names(in: "\(folder)/manifests/\(prefix)").compactMap { name in
        guard name.hasSuffix(".json"), let key = Digest(hex: String(name.dropLast(5))),
          key.hex.hasPrefix(prefix)
        else { return nil }
        return key
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
        objects.append(try Manifest.Object(path: prefix + name, at: path))
      }
    }
    try Folder.sync(folder)
    return objects
  }

  /// The digest of an artifact of these objects alone.
  public static func digest(of objects: [Manifest.Object]) -> Digest {
    SHA256.digest(of: objects.map { "\($0.path)\0\($0.digest.hex)\n" }.joined())
  }
}

extension Manifest {
  /// What the members of a manifest mean: more may be added to them, but whoever changes one raises this number.
  fileprivate static let format = 2
  /// Bytes of a manifest's file that are read at most.
  fileprivate static let longest = 256 << 20

  /// The manifest as its file holds it, with a digest of its own so that a flipped bit is found.
  var file: JSON {
    let body: JSON = [
      "format": .integer(Self.format), "key": .string(key.hex), "digest": .string(digest.hex),
      "components": components,
      "objects": .array(
        objects.map {
          ["path": .string($0.path), "size": .integer($0.size), "sha256": .string($0.digest.hex)]
        }),
      "report": report,
    ]
    return body.sealed()
  }

  init?(file: JSON) {
    guard let body = file.opened(), body["format"]?.integer == Self.format,
      let key = body["key"]?.string.flatMap(Digest.init(hex:)),
      let digest = body["digest"]?.string.flatMap(Digest.init(hex:)), let list = body["objects"]?.array
    else { return nil }
    var objects: [Object] = []
    for item in list {
      guard let path = item["path"]?.string, Folder.isBelow(path), let size = item["size"]?.integer,
        let digest = item["sha256"]?.string.flatMap(Digest.init(hex:))
      else { return nil }
      objects.append(Object(path: path, size: size, digest: digest))
    }
    self.init(
      key: key, components: body["components"] ?? .null, objects: objects, digest: digest,
      report: body["report"] ?? .null)
  }
}
