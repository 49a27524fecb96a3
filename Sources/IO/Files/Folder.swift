import EspalierCore
import Glibc
import SystemPackage

/// Paths, folders and whole small files.
public enum Folder {
  /// What a path leads to; links are followed.
  public struct Entry: Sendable, Hashable {
    public let isFolder: Bool
    public let isFile: Bool
    public let size: Int
    /// Changes whenever the content may have changed: size, times of change in nanoseconds, inode.
    public let identity: String

    init(_ status: Stat) {
      isFolder = status.type == .directory
      isFile = status.type == .regular
      size = Int(status.size)
      // Programs can set the time at which the content changed, but not that at which the inode did.
      let (content, entry) = (status.st_mtim, status.st_ctim)
      identity =
        "\(size)-\(content.tv_sec).\(content.tv_nsec)-\(entry.tv_sec).\(entry.tv_nsec)-\(status.inode.rawValue)"
    }
  }

  /// The entry at `path`; nil if nothing is there.
  public static func entry(_ path: String) throws -> Entry? {
    try status(path, followingLinks: true).map(Entry.init)
  }

  private static func status(_ path: String, followingLinks: Bool) throws -> Stat? {
    do {
      return try Stat(path, followTargetSymlink: followingLinks)
    } catch .noSuchFileOrDirectory, .notDirectory {
      return nil
    } catch {
      throw EspalierError.system("look at", path, error)
    }
  }

  /// The names of a folder's entries, sorted by their bytes.
  public static func names(in path: String) throws -> [String] {
    guard let stream = opendir(path) else { throw EspalierError.system("list", path) }
    defer { closedir(stream) }
    var names: [String] = []
    while true {
      // Only errno distinguishes the end of the folder from a failure.
      errno = 0
      guard let entry = readdir(stream) else { break }
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(validatingCString: $0) }
      }
      guard let name else {
        throw EspalierError.badInput(
          "the folder holds a name that is not valid UTF-8; rename it.", subject: path)
      }
      if name != "." && name != ".." { names.append(name) }
    }
    guard errno == 0 else { throw EspalierError.system("list", path) }
    return names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
  }

  /// Whether `path` itself is a symbolic link.
  public static func isLink(_ path: String) throws -> Bool {
    try status(path, followingLinks: false)?.type == .symbolicLink
  }

  /// Whether `path` is `folder` or lies below it; links are followed, and neither has to exist.
  public static func contains(_ folder: String, _ path: String) throws -> Bool {
    try real(path).starts(with: real(folder))
  }

  /// The absolute path, with all links resolved in the part of it that exists.
  public static func absolute(_ path: String) throws -> String { try real(path).string }

  private static func real(_ path: String) throws -> FilePath {
    if let real = realpath(path, nil) {
      defer { free(real) }
      return FilePath(platformString: real)
    }
    guard errno == ENOENT || errno == ENOTDIR, parent(of: path) != path else {
      throw EspalierError.system("follow the path", path)
    }
    return try real(parent(of: path)).appending(name(of: path))
  }

  /// Creates a folder and its missing parents.
  public static func create(_ path: String) throws {
    if mkdir(path, 0o755) == 0 { return }
    if errno == EEXIST {
      guard try entry(path)?.isFolder == true else {
        throw EspalierError.system("create the folder", path, .fileExists)
      }
      return
    }
    let parent = self.parent(of: path)
    guard errno == ENOENT, parent != path else { throw EspalierError.system("create the folder", path) }
    try create(parent)
    guard mkdir(path, 0o755) == 0 || errno == EEXIST else {
      throw EspalierError.system("create the folder", path)
    }
  }

  /// Removes a file or a folder with its contents, if there is one. Links are removed, not followed.
  public static func remove(_ path: String) throws {
    if unlink(path) == 0 || errno == ENOENT { return }
    guard errno == EISDIR || errno == EPERM else { throw EspalierError.system("remove", path) }
    for name in try names(in: path) { try remove(path + "/" + name) }
    guard rmdir(path) == 0 else { throw EspalierError.system("remove", path) }
  }

  /// Moves `source` to `target` in one step, and returns once the move is on the disk.
  public static func move(_ source: String, to target: String) throws {
    guard rename(source, target) == 0 else { throw EspalierError.system("move \(source) to", target) }
    try sync(parent(of: target))
  }

  /// Returns once the names in a folder are on the disk.
  public static func sync(_ path: String) throws {
    let descriptor = try attempt("open the folder", path) {
      try FileDescriptor.open(path, .readOnly, options: [.directory, .closeOnExec])
    }
    defer { try? descriptor.close() }
    // Some network file systems cannot sync a folder and report EINVAL; the rename itself is then the commit.
    guard retrying({ fsync(descriptor.rawValue) }) == 0 || errno == EINVAL else {
      throw EspalierError.system("sync the folder", path)
    }
  }

  /// A disk and its free space.
  public struct Disk: Sendable, Hashable {
    /// Distinguishes it from the other disks of the machine.
    public let device: UInt64
    /// Free bytes for this user.
    public let free: Int

    public init(device: UInt64, free: Int) {
      self.device = device
      self.free = free
    }
  }

  /// The disk that holds `path`, or would hold it.
  public static func disk(at path: String) throws -> Disk {
    let place = try existing(path)
    let status = try attempt("measure the disk of", path) { try Stat(place) }
    var space = statvfs()
    guard statvfs(place, &space) == 0 else { throw EspalierError.system("measure the disk of", path) }
    return Disk(device: UInt64(status.deviceID.rawValue), free: Int(space.f_bavail) * Int(space.f_frsize))
  }

  /// `path`, or the nearest folder above it that exists.
  public static func existing(_ path: String) throws -> String {
    var place = path
    while try entry(place) == nil, parent(of: place) != place { place = parent(of: place) }
    return place
  }

  /// The folder that holds `path`; "." for a bare name.
  public static func parent(of path: String) -> String {
    let before = path.utf8[..<lastComponent(of: path).startIndex]
    guard let end = before.lastIndex(where: { $0 != slash }) else { return before.isEmpty ? "." : "/" }
    return String(Substring(before[...end]))
  }

  /// The last component of `path`, which may be "/".
  public static func name(of path: String) -> String {
    let name = lastComponent(of: path)
    return name.isEmpty ? path : String(Substring(name))
  }

  /// The bytes of the last component, without the slashes behind it; empty at the end of a path of slashes alone.
  private static func lastComponent(of path: String) -> Substring.UTF8View {
    let bytes = path.utf8
    guard let last = bytes.lastIndex(where: { $0 != slash }) else { return bytes[bytes.endIndex...] }
    let before = bytes[..<last].lastIndex(of: slash)
    return bytes[(before.map { bytes.index(after: $0) } ?? bytes.startIndex)...last]
  }

  private static let slash = UInt8(ascii: "/")

  /// Whether two paths name the same file or folder.
  public static func isSame(_ a: String, _ b: String) throws -> Bool {
    guard let first = try entry(a), let second = try entry(b) else { return a == b }
    return first.identity == second.identity
  }

  /// Whether a path found in a file, relative to some folder, names something below that folder.
  //
  // Compares bytes: in a String, a slash followed by a combining mark is a different character. And not by FilePath, which
  // accepts doubled slashes and stops at a zero byte.
  public static func isBelow(_ path: String) -> Bool {
    !path.utf8.contains(0)
      && path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).allSatisfy {
        !$0.isEmpty && !$0.elementsEqual(".".utf8) && !$0.elementsEqual("..".utf8)
      }
  }

  /// Opens a regular file for reading.
  ///
  /// - Throws: as ``requireFile(_:)``; an I/O error.
  public static func file(_ path: String) throws -> File {
    try requireFile(path)
    return try File(reading: path)
  }

  /// Checks that a path leads to a regular file.
  ///
  /// - Throws: missing input if nothing is there; bad input if it is a folder, a pipe or a device.
  public static func requireFile(_ path: String) throws {
    guard let entry = try entry(path) else { throw EspalierError.missing(path, "there is no such file") }
    // Opening a pipe would wait forever.
    guard entry.isFile else {
      throw EspalierError.badInput(
        "this is a \(entry.isFolder ? "folder" : "pipe or a device"), not a file.", subject: path)
    }
  }

  /// Whether there is a folder at `path` itself, not behind a link, with nothing in it.
  public static func isEmptyFolder(_ path: String) throws -> Bool {
    try status(path, followingLinks: false)?.type == .directory && names(in: path).isEmpty
  }

  /// Reads a whole file of at most `limit` bytes.
  ///
  /// - Throws: an I/O error; bad input if the file is larger, or is a folder, a pipe or a device.
  public static func read(_ path: String, limit: Int = 1 << 30) throws -> [UInt8] {
    let file = try file(path)
    let size = try file.size()
    guard size <= limit else {
      throw EspalierError.badInput(
        "the file has \(size) bytes; at most \(limit) are read here.", subject: path)
    }
    return try file.bytes(0..<size)
  }

  /// Reads a whole text.
  ///
  /// - Throws: an I/O error; bad input if the file is larger than `limit`, is no file, or is not valid UTF-8.
  public static func readText(_ path: String, limit: Int = 1 << 30) throws -> String {
    guard let text = String(validating: try read(path, limit: limit), as: UTF8.self) else {
      try ForeignFile.refuse(path)
      throw EspalierError.badInput("the text is not valid UTF-8.", subject: path)
    }
    return text
  }

  /// Checks that there is a file at `path`, or nothing in a folder that is there.
  ///
  /// - Throws: a usage error.
  public static func requireWritableFile(_ path: String) throws {
    try requireNoOther(path)
    guard try entry(parent(of: path))?.isFolder == true else {
      throw EspalierError.usage(
        "the folder of this file is not there; create it, or give another.", subject: path)
    }
  }

  /// A file that is moved to `path` would replace a pipe or a device.
  private static func requireNoOther(_ path: String) throws {
    guard let entry = try entry(path), !entry.isFile else { return }
    throw EspalierError.usage(
      "this is a \(entry.isFolder ? "folder" : "pipe or a device"); give the name of a file.", subject: path)
  }

  /// Writes a whole file so that a crash leaves either the old or the new content: temporary name, sync, rename.
  ///
  /// - Parameter drafts: a folder on the same disk for the temporary file, which a kill leaves there; nil for the folder of `path`.
  public static func writeAtomically(_ bytes: [UInt8], to path: String, drafts: String? = nil) throws {
    try requireNoOther(path)
    let temporary = "\(drafts.map { "\($0)/\(name(of: path))" } ?? path).partial-\(getpid())"
    do {
      let file = try File(writing: temporary, truncate: true)
      try file.write(bytes, at: 0)
      try file.sync()
      try move(temporary, to: path)
    } catch {
      unlink(temporary)
      throw error
    }
  }

  /// Reads and parses a JSON file; errors name the file.
  public static func readJSON(_ path: String, limit: Int = 1 << 30) throws -> JSON {
    let bytes = try read(path, limit: limit)
    do {
      return try about(path) { try JSON(parsing: bytes.span.bytes) }
    } catch {
      try ForeignFile.refuse(path)
      throw error
    }
  }
}
