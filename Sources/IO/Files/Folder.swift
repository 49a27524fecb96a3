import EspalierCore
import Glibc

/// Paths, folders and whole small files.
public enum Folder {
  /// What a path leads to, links followed.
  public struct Entry: Sendable, Hashable {
    public let isFolder: Bool
    public let isFile: Bool
    public let size: Int
    /// Changes whenever the content may have changed: size, times of change in nanoseconds, file number.
    public let identity: String

    init(_ status: stat) {
      let kind = status.st_mode & S_IFMT
      isFolder = kind == S_IFDIR
      isFile = kind == S_IFREG
      size = Int(status.st_size)
      // Programs can set the time of a content's change, but not that of the entry's.
      let (content, entry) = (status.st_mtim, status.st_ctim)
      identity =
        "\(size)-\(content.tv_sec).\(content.tv_nsec)-\(entry.tv_sec).\(entry.tv_nsec)-\(status.st_ino)"
    }
  }

  /// The entry at `path`; nil where nothing is there.
  public static func entry(_ path: String) throws -> Entry? {
    var status = stat()
    guard stat(path, &status) == 0 else {
      if errno == ENOENT || errno == ENOTDIR { return nil }
      throw EspalierError.system("look at", path)
    }
    return Entry(status)
  }

  /// Names of the entries of a folder, sorted by their bytes.
  public static func names(in path: String) throws -> [String] {
    guard let stream = opendir(path) else { throw EspalierError.system("list", path) }
    defer { closedir(stream) }
    var names: [String] = []
    while true {
      // Only errno tells the end of the folder from a failure.
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

  /// Whether a link stands at `path` itself, whatever it leads to.
  public static func isLink(_ path: String) throws -> Bool {
    var status = stat()
    guard lstat(path, &status) == 0 else {
      if errno == ENOENT || errno == ENOTDIR { return false }
      throw EspalierError.system("look at", path)
    }
    return status.st_mode & S_IFMT == S_IFLNK
  }

  /// Whether `path` is the folder or lies somewhere below it, links followed; neither need exist.
  public static func contains(_ folder: String, _ path: String) throws -> Bool {
    let (outer, inner) = (try real(folder), try real(path))
    return inner == outer
      || inner.starts(with: outer == [UInt8(ascii: "/")] ? outer : outer + [UInt8(ascii: "/")])
  }

  /// The path from the root, as bytes, without any link in what exists of it.
  private static func real(_ path: String) throws -> [UInt8] {
    if let real = realpath(path, nil) {
      defer { free(real) }
      return Array(String(cString: real).utf8)
    }
    guard errno == ENOENT || errno == ENOTDIR, parent(of: path) != path else {
      throw EspalierError.system("follow the path", path)
    }
    return try real(parent(of: path)) + Array("/\(name(of: path))".utf8)
  }

  /// Makes a folder and those above it.
  public static func create(_ path: String) throws {
    if mkdir(path, 0o755) == 0 { return }
    if errno == EEXIST {
      guard try entry(path)?.isFolder == true else {
        throw EspalierError.system("create the folder", path, EEXIST)
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

  /// Removes a file, or a folder with all that it holds; links are removed, not followed. Nothing there is fine.
  public static func remove(_ path: String) throws {
    if unlink(path) == 0 || errno == ENOENT { return }
    guard errno == EISDIR || errno == EPERM else { throw EspalierError.system("remove", path) }
    for name in try names(in: path) { try remove(path + "/" + name) }
    guard rmdir(path) == 0 else { throw EspalierError.system("remove", path) }
  }

  /// Moves `source` to `target` in one step, and returns when the move is on the disk.
  public static func move(_ source: String, to target: String) throws {
    guard rename(source, target) == 0 else { throw EspalierError.system("move \(source) to", target) }
    try sync(parent(of: target))
  }

  /// Returns when the names in a folder are on the disk.
  public static func sync(_ path: String) throws {
    let descriptor = retrying { open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
    guard descriptor >= 0 else { throw EspalierError.system("open the folder", path) }
    defer { close(descriptor) }
    // Some network file systems cannot sync a folder and say EINVAL; the rename itself is then the commit.
    guard retrying({ fsync(descriptor) }) == 0 || errno == EINVAL else {
      throw EspalierError.system("sync the folder", path)
    }
  }

  /// A disk, as far as it matters to whoever writes on it.
  public struct Disk: Sendable, Hashable {
    /// Tells it from the other disks of the machine.
    public let device: UInt64
    /// Bytes that are free for this user.
    public let free: Int

    public init(device: UInt64, free: Int) {
      self.device = device
      self.free = free
    }
  }

  /// The disk that holds `path`, or will hold it.
  public static func disk(at path: String) throws -> Disk {
    let place = try existing(path)
    var (status, space) = (stat(), statvfs())
    guard stat(place, &status) == 0, statvfs(place, &space) == 0 else {
      throw EspalierError.system("measure the disk of", path)
    }
    return Disk(device: UInt64(status.st_dev), free: Int(space.f_bavail) * Int(space.f_frsize))
  }

  /// `path`, or the nearest folder above it that exists.
  public static func existing(_ path: String) throws -> String {
    var place = path
    while try entry(place) == nil, parent(of: place) != place { place = parent(of: place) }
    return place
  }

  /// The folder that holds `path`.
  public static func parent(of path: String) -> String {
    let trimmed = path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path
    guard let slash = trimmed.lastIndex(of: "/") else { return "." }
    return slash == trimmed.startIndex ? "/" : String(trimmed[..<slash])
  }

  /// The last component of `path`.
  public static func name(of path: String) -> String {
    let trimmed = path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path
    return trimmed.lastIndex(of: "/").map { String(trimmed[trimmed.index(after: $0)...]) } ?? trimmed
  }

  /// Whether a path that a file gives, taken from some folder, leads to something below that folder.
  //
  // By bytes: for a String, a slash with a combining mark behind it is no slash.
  public static func isBelow(_ path: String) -> Bool {
    !path.utf8.contains(0)
      && path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).allSatisfy {
        !$0.isEmpty && !$0.elementsEqual(".".utf8) && !$0.elementsEqual("..".utf8)
      }
  }

  /// Opens what must be a file for reading.
  ///
  /// - Throws: bad input for a folder, a pipe or a device; an I/O error.
  public static func file(_ path: String) throws -> File {
    guard let entry = try entry(path) else { throw EspalierError.system("open", path, ENOENT) }
    // Opening a pipe would wait for ever.
    guard entry.isFile else {
      throw EspalierError.badInput(
        "this is a \(entry.isFolder ? "folder" : "pipe or a device"), not a file.", subject: path)
    }
    return try File(reading: path)
  }

  /// The whole content of a file of at most `limit` bytes.
  ///
  /// - Throws: an I/O error, or bad input where the file is larger, or a folder, a pipe or a device.
  public static func read(_ path: String, limit: Int = 1 << 30) throws -> [UInt8] {
    let file = try file(path)
    let size = try file.size()
    guard size <= limit else {
      throw EspalierError.badInput(
        "the file has \(size) bytes; at most \(limit) are read here.", subject: path)
    }
    return try file.bytes(0..<size)
  }

  /// Writes a whole file so that after a crash either the old or the new content is there: temporary name, sync, rename.
  public static func writeAtomically(_ bytes: [UInt8], to path: String) throws {
    let temporary = "\(path).partial-\(getpid())"
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
    return try about(path) { try JSON(parsing: bytes.span.bytes) }
  }
}
