import CLinux
import EspalierCore
import Glibc
import SystemPackage

/// An open file, read and written at explicit positions and closed with its owner.
///
/// There is no shared cursor, so several threads may use one file at different positions.
public struct File: ~Copyable, Sendable {
  public let path: String
  let descriptor: FileDescriptor

  /// Opens a file for reading.
  ///
  /// - Throws: an I/O error that names the path.
  public init(reading path: String) throws {
    self.path = path
    descriptor = try attempt("open", path) {
      try FileDescriptor.open(path, .readOnly, options: .closeOnExec)
    }
  }

  /// Opens a file for reading and writing, and creates it if it does not exist.
  ///
  /// - Throws: an I/O error that names the path.
  public init(writing path: String, truncate: Bool = false) throws {
    self.path = path
    descriptor = try attempt("open for writing", path) {
      try FileDescriptor.open(
        path, .readWrite, options: truncate ? [.create, .closeOnExec, .truncate] : [.create, .closeOnExec],
        permissions: [.ownerReadWrite, .groupRead, .otherRead])
    }
  }

  /// Opens a file that exists for reading and writing.
  ///
  /// - Throws: an I/O error that names the path.
  public init(changing path: String) throws {
    self.path = path
    descriptor = try attempt("open for writing", path) {
      try FileDescriptor.open(path, .readWrite, options: .closeOnExec)
    }
  }

  /// A file in memory with these bytes; `name` is its path in messages.
  ///
  /// - Throws: an I/O error if there is not enough memory.
  public init(holding bytes: [UInt8], name: String) throws {
    path = name
    descriptor = try attempt("open in memory", name) {
      let descriptor = FileDescriptor(rawValue: espalier_memory_file())
      guard descriptor.rawValue >= 0 else { throw Errno(rawValue: errno) }
      do {
        try descriptor.writeAll(toAbsoluteOffset: 0, bytes)
      } catch {
        try? descriptor.close()
        throw error
      }
      return descriptor
    }
  }

  deinit { try? descriptor.close() }

  /// Size in bytes.
  public func size() throws -> Int { try entry().size }

  /// The file that was opened, even if its path leads to another one by now.
  func entry() throws -> Folder.Entry {
    Folder.Entry(try attempt("read the size", path) { try descriptor.stat() })
  }

  /// Reads a range of bytes into the front of `buffer`.
  ///
  /// - Throws: an I/O error, also if the file ends too early.
  public func read(_ range: Range<Int>, into buffer: inout MutableSpan<UInt8>) throws {
    try buffer.withUnsafeMutableBytes {
      try read(range, UnsafeMutableRawBufferPointer(rebasing: $0[..<range.count]))
    }
  }

  /// Fills `values` from byte `offset` on, as this machine writes them.
  ///
  /// - Throws: an I/O error, also if the file ends too early.
  public func read(at offset: Int, into values: inout MutableSpan<Float>) throws {
    try values.withUnsafeMutableBytes { try read(offset..<offset + $0.count, $0) }
  }

  private func read(_ range: Range<Int>, _ target: UnsafeMutableRawBufferPointer) throws {
    var position = range.lowerBound
    while position < range.upperBound {
      let count = try attempt("read at byte \(position)", path) {
        try descriptor.read(
          fromAbsoluteOffset: Int64(position),
          into: UnsafeMutableRawBufferPointer(rebasing: target[(position - range.lowerBound)...]))
      }
      guard count > 0 else {
        throw EspalierError(
          .io, "the file ends before byte \(position), which should be there.", subject: path)
      }
      position += count
    }
  }

  /// Reads a range of bytes.
  ///
  /// - Throws: an I/O error, also if the file ends too early.
  public func bytes(_ range: Range<Int>) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: range.count)
    var span = bytes.mutableSpan
    try read(range, into: &span)
    return bytes
  }

  /// Reads the first `count` bytes without relying on stat (files in /proc claim to be empty); nil if there are fewer.
  public static func start(of path: String, count: Int) -> [UInt8]? {
    try? File(reading: path).bytes(0..<count)
  }

  /// Writes all bytes at `offset`.
  ///
  /// - Throws: an I/O error.
  public func write(_ bytes: RawSpan, at offset: Int) throws {
    _ = try bytes.withUnsafeBytes { bytes in
      try attempt("write", path) { try descriptor.writeAll(toAbsoluteOffset: Int64(offset), bytes) }
    }
  }

  /// Writes all bytes at `offset`.
  ///
  /// - Throws: an I/O error.
  public func write(_ bytes: [UInt8], at offset: Int) throws { try write(bytes.span.bytes, at: offset) }

  /// Makes the file this long; new bytes are zero and take no space on the disk.
  public func resize(to size: Int) throws {
    try attempt("resize", path) { try descriptor.resize(to: Int64(size)) }
  }

  /// Returns once the bytes are on the disk.
  public func sync() throws {
    guard retrying({ fsync(descriptor.rawValue) }) == 0 else { throw EspalierError.system("sync", path) }
  }

  /// Drops the file from the system's page cache, so that it is read from the disk again.
  public func forgetCached() { posix_fadvise(descriptor.rawValue, 0, 0, POSIX_FADV_DONTNEED) }

  /// Tells the system how these bytes will be used; `advice` is one of `POSIX_FADV_*`.
  func advise(_ range: Range<Int>, _ advice: Int32) {
    // The system takes a length of 0 as "to the end of the file".
    if !range.isEmpty { posix_fadvise(descriptor.rawValue, range.lowerBound, range.count, advice) }
  }

  /// Copies bytes of `source` into this file, inside the kernel if it can. File systems that share blocks between
  /// files (XFS, btrfs) then copy nothing.
  ///
  /// - Parameter target: where they go; nil for the same place.
  /// - Throws: an I/O error, also if the source ends too early.
  public func copy(_ range: Range<Int>, of source: borrowing File, to target: Int? = nil) throws {
    var from = off_t(range.lowerBound)
    var to = off_t(target ?? range.lowerBound)
    while from < range.upperBound {
      let remaining = range.upperBound - Int(from)
      let count = retrying {
        espalier_copy_file_range(source.descriptor.rawValue, &from, descriptor.rawValue, &to, remaining)
      }
      if count > 0 { continue }
      // Fails between disks and on file systems without this call; some of them report the end of the file instead.
      guard count == 0 || [EXDEV, EINVAL, ENOSYS, EOPNOTSUPP].contains(errno) else {
        throw EspalierError.system("copy \(source.path) to", path)
      }
      return try copyThroughMemory(Int(from)..<range.upperBound, of: source, to: Int(to))
    }
  }

  private func copyThroughMemory(_ range: Range<Int>, of source: borrowing File, to target: Int) throws {
    var buffer = [UInt8](repeating: 0, count: min(range.count, 1 << 20))
    for part in parts(of: range.count, size: 1 << 20) {
      let start = range.lowerBound + part.lowerBound
      var span = buffer.mutableSpan
      try source.read(start..<start + part.count, into: &span)
      try write(buffer.span.extracting(first: part.count).bytes, at: target + part.lowerBound)
    }
  }

  /// Maps the first `count` bytes for reading; the caller unmaps them. For `count` 0, returns an address that must not be read.
  func map(_ count: Int) throws -> UnsafeRawPointer {
    guard count > 0 else { return UnsafeRawPointer(bitPattern: 64)! }
    guard let base = mmap(nil, count, PROT_READ, MAP_PRIVATE, descriptor.rawValue, 0), base != MAP_FAILED
    else {
      throw EspalierError.system("map", path)
    }
    return UnsafeRawPointer(base)
  }

  /// Takes a lock, exclusive or shared, which the system releases when the process ends; false if someone else holds it.
  func lock(shared isShared: Bool = false) throws -> Bool {
    let kind = isShared ? LOCK_SH : LOCK_EX
    if retrying({ flock(descriptor.rawValue, kind | LOCK_NB) }) == 0 { return true }
    if errno == EWOULDBLOCK { return false }
    throw EspalierError.system("lock", path)
  }
}
