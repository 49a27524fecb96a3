import EspalierCore
import Glibc

/// The record of a committed artifact: the file `manifests/KK/KEY.json`, which exists only once all objects are on the disk.
public struct Manifest: Sendable {
  /// One file or spill array of an artifact.
  public struct Object: Sendable, Hashable {
    /// Path below the artifact's folder.
    public let path: String
    /// Bytes of the file, or of all files of the array.
    public let size: Int
    /// SHA-256 of the file, or the array's content digest.
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

    /// The spill array in `folder` as the object `path`, with the digest that its writer computed; nil if there is none.
    fileprivate init?(array path: String, at folder: String) throws {
      guard try Folder.entry(folder + "/zarr.json")?.isFile == true else { return nil }
      self.init(
        path: path, size: try ArtifactStore.size(folder) ?? 0,
        digest: try SpillArray(folder: folder).recordedDigest)
    }
  }

  public let key: Digest
  /// The parts of the key by name, which `explain` compares.
  public let components: JSON
  public let objects: [Object]
  /// The digest of the content, which goes into the keys of artifacts made from it.
  public let digest: Digest
  /// What the stage reported: losses, counts, seconds.
  public let report: JSON
}

/// Immutable artifacts in a work folder, found by key.
///
/// Objects are written to a folder under `partial/`, synced, and renamed to `objects/KK/KEY`; then the manifest is written to a
/// temporary name, synced and renamed. So an artifact exists either whole or not at all. An artifact whose bytes were released keeps
/// its manifest, so that its digest stays known.
public struct ArtifactStore: Sendable {
  public let folder: String

  /// Opens a work folder, and creates it if there is none.
  ///
  /// - Throws: a usage error if a later version made it.
  public init(folder: String) throws {
    try self.init(unprepared: folder)
    try prepare()
  }

  /// A work folder that ``prepare()`` may have to create.
  ///
  /// - Throws: a usage error if a later version made it.
  public init(unprepared folder: String) throws {
    self.folder = folder
    try checkFormat()
  }

  /// Creates what is missing of the work folder.
  public func prepare() throws {
    for name in ["manifests", "objects", "partial"] { try Folder.create("\(folder)/\(name)") }
    if try Folder.entry(formatPath) == nil {
      let mark: JSON = ["format": .integer(Self.format)]
      try Folder.writeAtomically(Array((mark.sealed().text + "\n").utf8), to: formatPath)
    }
  }

  /// Opens an existing work folder for reading.
  ///
  /// - Throws: an I/O error if there is none; a usage error if a later version made it.
  public init(existing folder: String) throws {
    guard try Folder.entry(folder + "/manifests")?.isFolder == true else {
      throw Self.missing(folder)
    }
    self.folder = folder
    try checkFormat()
  }

  /// The error for a folder that is not there, or not a work folder.
  public static func missing(_ folder: String) -> EspalierError {
    let advice = "give the work folder of a run (--work, by default OUTPUT.work)"
    guard (try? Folder.entry(folder)) ?? nil != nil else {
      return .missing(folder, "there is no such folder; \(advice)")
    }
    return .badInput("this is not a work folder of espalier; \(advice).", subject: folder)
  }

  /// Version of the folder's layout; raise it when the layout changes.
  private static let format = 1
  private var formatPath: String { folder + "/format.json" }

  /// A format file that cannot be read is ignored: nothing in it is needed.
  private func checkFormat() throws {
    guard try Folder.entry(formatPath) != nil,
      let format = (try? Folder.readJSON(formatPath, limit: 4096))?.opened()?["format"]?.integer,
      format > Self.format
    else { return }
    throw EspalierError.usage(
      "a later version of espalier made this work folder (format \(format), this one knows \(Self.format)); use that version, or choose another folder with --work.",
      subject: folder)
  }

  /// The manifest of `key`; nil if there is none or this version cannot read it, so that the artifact is made again.
  public func manifest(_ key: Digest) throws -> Manifest? {
    let path = manifestPath(key)
    guard try Folder.entry(path) != nil else { return nil }
    guard let manifest = try? Manifest(file: Folder.readJSON(path, limit: Manifest.longest)),
      manifest.key == key
    else { return nil }
    return manifest
  }

  /// Whether every object of the artifact exists with its size.
  public func isPresent(_ manifest: Manifest) throws -> Bool {
    try manifest.objects.allSatisfy { try Self.size(path(manifest.key, $0.path)) == $0.size }
  }

  /// The objects whose bytes are not the committed ones.
  public func damagedObjects(of manifest: Manifest) throws -> [Manifest.Object] {
    try manifest.objects.filter { object in
      let path = path(manifest.key, object.path)
      guard try Self.size(path) == object.size else { return true }
      guard try Folder.entry(path)?.isFolder == true else {
        return try SHA256.digest(ofFile: path) != object.digest
      }
      do {
        return try SpillArray(folder: path).contentDigest() != object.digest
      } catch let error as EspalierError where error.code == .badInput {
        return true
      }
    }
  }

  /// Bytes of a file, or of all files below a folder; nil if nothing is there.
  fileprivate static func size(_ path: String) throws -> Int? {
    guard let entry = try Folder.entry(path) else { return nil }
    guard entry.isFolder else { return entry.size }
    return try Folder.names(in: path).reduce(0) { try $0 + (size("\(path)/\($1)") ?? 0) }
  }

  /// Path of an object of a committed artifact.
  public func path(_ key: Digest, _ object: String) -> String { "\(path(key))/\(object)" }

  /// Path of the folder of a committed artifact.
  public func path(_ key: Digest) -> String { "\(folder)/objects/\(key.hex.prefix(2))/\(key.hex)" }

  /// Path of the folder for new objects of `key`.
  public func partialPath(_ key: Digest) -> String { "\(Self.partial(folder))/\(key.hex)" }

  /// The folder in a work folder for whatever is unfinished; a process that was killed leaves it to the next, which empties it.
  public static func partial(_ folder: String) -> String { folder + "/partial" }

  /// Creates an empty folder for the objects of `key`.
  public func begin(_ key: Digest) throws -> String {
    let path = partialPath(key)
    try Folder.remove(path)
    try Folder.create(path)
    return path
  }

  /// The objects in the folder that ``begin(_:)`` created; they are on the disk then.
  public func written(_ key: Digest) throws -> [Manifest.Object] {
    try Self.objects(in: partialPath(key))
  }

  /// Commits the contents of the folder that ``begin(_:)`` created.
  ///
  /// - Parameters:
  ///   - objects: what ``written(_:)`` found; nil to find it now.
  ///   - content: the digest of the content, if it is not the one of the objects.
  public func commit(
    _ key: Digest, components: JSON, objects: [Manifest.Object]? = nil, content: Digest? = nil, report: JSON
  ) throws -> Manifest {
    let objects = try objects ?? written(key)
    try Folder.create(Folder.parent(of: path(key)))
    try Folder.remove(path(key))
    try Folder.move(partialPath(key), to: path(key))
    return try record(key, components: components, objects: objects, content: content, report: report)
  }

  /// Writes the manifest of an artifact whose objects are elsewhere.
  public func record(
    _ key: Digest, components: JSON, objects: [Manifest.Object], content: Digest? = nil, report: JSON
  ) throws -> Manifest {
    let manifest = Manifest(
      key: key, components: components, objects: objects, digest: content ?? Self.digest(of: objects),
      report: report)
    try Folder.create(Folder.parent(of: manifestPath(key)))
    try Folder.writeAtomically(
      Array(manifest.file.prettyText.utf8), to: manifestPath(key), drafts: Self.partial(folder))
    return manifest
  }

  /// Deletes the objects of an artifact; its manifest stays.
  public func release(_ key: Digest) throws {
    let trash = "\(partialPath(key)).released"
    try Folder.remove(trash)
    guard try Folder.entry(path(key)) != nil else { return }
    try Folder.move(path(key), to: trash)
    try Folder.remove(trash)
  }

  /// Removes what an interrupted process left unfinished; only for the holder of the work folder's lock.
  public func removePartial() throws {
    let partial = Self.partial(folder)
    for name in try Folder.names(in: partial) { try Folder.remove(partial + "/" + name) }
  }

  /// All readable manifests, in the order of their keys.
  public func manifests() throws -> [Manifest] { try keys().compactMap { try manifest($0) } }

  /// Paths of manifests that cannot be used, each with the reason.
  public func unusableManifests() throws -> [(path: String, problem: String)] {
    try keys().filter { try manifest($0) == nil }.map { key in
      let path = manifestPath(key)
      let body = (try? Folder.readJSON(path, limit: Manifest.longest))?.opened()
      guard let format = body?["format"]?.integer, format >= 1, format != Manifest.format else {
        return (path, "the manifest is damaged.")
      }
      return (
        path,
        "\(format > Manifest.format ? "a later" : "an earlier") version of espalier wrote this manifest (format \(format), this one knows \(Manifest.format))."
      )
    }
  }

  /// The keys in the file names below `manifests/`; other files there are ignored.
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
      if entry.isFolder, let array = try Manifest.Object(array: prefix + name, at: path) {
        objects.append(array)
      } else if entry.isFolder {
        objects += try Self.objects(in: path, below: prefix + name + "/")
      } else {
        objects.append(try Manifest.Object(path: prefix + name, at: path))
      }
    }
    try Folder.sync(folder)
    return objects
  }

  /// The digest of an artifact that consists of these objects.
  public static func digest(of objects: [Manifest.Object]) -> Digest {
    SHA256.digest(of: objects.map { "\($0.path)\0\($0.digest.hex)\n" }.joined())
  }
}

extension Manifest {
  /// Version of the meaning of a manifest's members; raise it when the meaning of one changes. 2: an object may be a spill array; reports have
  /// types.
  fileprivate static let format = 2
  /// Size limit of a manifest's file, in bytes.
  fileprivate static let longest = 256 << 20

  /// The content of the manifest's file, with a digest of itself so that a flipped bit is found.
  var file: JSON {
    let body: JSON = [
      "format": .integer(Self.format), "key": .string(key.hex), "digest": .string(digest.hex),
      "components": components,
      "objects": .array(objects.map(\.json)),
      "report": report,
    ]
    return body.sealed()
  }

  init?(file: JSON) {
    guard let body = file.opened(), let format = body["format"]?.integer,
      format == Self.format,
      let key = body["key"]?.string.flatMap(Digest.init(hex:)),
      let digest = body["digest"]?.string.flatMap(Digest.init(hex:)), let list = body["objects"]?.array
    else { return nil }
    let objects = list.compactMap(Object.init(json:))
    guard objects.count == list.count else { return nil }
    self.init(
      key: key, components: body["components"] ?? .null, objects: objects, digest: digest,
      report: body["report"] ?? .null)
  }
}

extension Manifest.Object {
  public var json: JSON {
    ["path": .string(path), "size": .integer(size), "sha256": .string(digest.hex)]
  }

  public init?(json: JSON) {
    guard let path = json["path"]?.string, Folder.isBelow(path), let size = json["size"]?.integer,
      let digest = json["sha256"]?.string.flatMap(Digest.init(hex:))
    else { return nil }
    self.init(path: path, size: size, digest: digest)
  }
}
