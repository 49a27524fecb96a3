import CLinux
import EspalierCore
import Glibc

/// An open file that is read and written at given positions; closed with its owner.
///
/// There is no shared cursor, so several threads may use one file at different positions.
public struct File: ~Copyable, Sendable {
  public let path: String
  private let descriptor: Int32

  /// Opens a file for reading.
  ///
  /// - Throws: an I/O error that names the path.
  public init(reading path: String) throws {
    self.path = path
    descriptor = retrying { open(path, O_RDONLY | O_CLOEXEC) }
    guard descriptor >= 0 else { throw EspalierError.system("open", path) }
  }

  /// Opens a file for reading and writing, and creates it where it does not exist.
  public init(writing path: String, truncate: Bool = false) throws {
    self.path = path
    descriptor = retrying { open(path, O_RDWR | O_CREAT | O_CLOEXEC | (truncate ? O_TRUNC : 0), 0o644) }
    guard descriptor >= 0 else { throw EspalierError.system("open for writing", path) }
  }

  deinit { close(descriptor) }

  /// Size in bytes.
  public func size() throws -> Int { try entry().size }

  /// What was opened, wherever its path leads by now.
  func entry() throws -> Folder.Entry {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw EspalierError.system("read the size", path) }
    return Folder.Entry(status)
  }

  /// Fills `buffer` from `offset` on.
  ///
  /// - Throws: an I/O error where the file ends before.
  public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws {
    var done = 0
    while done < buffer.count {
      let count = retrying {
        pread(descriptor, buffer.baseAddress! + done, buffer.count - done, offset + done)
      }
      if count < 0 { throw EspalierError.system("read at byte \(offset + done)", path) }
      if count == 0 {
        throw EspalierError(
          .io, "the file ends before byte \(offset + done), which should be there.", subject: path)
      }
      done += count
    }
  }

  /// Some of the bytes.
  ///
  /// - Throws: an I/O error where the file ends before.
  public func bytes(_ range: Range<Int>) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: range.count)
    try bytes.withUnsafeMutableBytes { try read(into: $0, at: range.lowerBound) }
    return bytes
  }

  /// The first bytes of a file whose size is not known before it is read, as of those in /proc; nil where there are not so many.
  public static func start(of path: String, count: Int) -> [UInt8]? {
    try? File(reading: path).bytes(0..<count)
  }

  /// Writes all bytes at `offset`.
  public func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws {
    var done = 0
    while done < bytes.count {
      let count = retrying {
        pwrite(descriptor, bytes.baseAddress! + done, bytes.count - done, offset + done)
      }
      if count < 0 { throw EspalierError.system("write", path) }
      done += count
    }
  }

  /// Writes all bytes at `offset`.
  public func write(_ bytes: [UInt8], at offset: Int) throws {
    try bytes.withUnsafeBytes { try write($0, at: offset) }
  }

  /// Writes all bytes of a buffer at `offset`.
  public func write(_ bytes: borrowing Buffer<UInt8>, at offset: Int) throws {
    try bytes.withUnsafe { try write(UnsafeRawBufferPointer($0), at: offset) }
  }

  /// Gives the file this size; new bytes are zero and take no room on the disk.
  public func resize(to size: Int) throws {
    guard retrying({ ftruncate(descriptor, size) }) == 0 else { throw EspalierError.system("resize", path) }
  }

  /// Returns when the bytes are on the disk.
  public func sync() throws {
    guard retrying({ fsync(descriptor) }) == 0 else { throw EspalierError.system("sync", path) }
  }

  /// Lets the system forget what it holds of the file in memory, so that it is read from the disk again.
  public func forgetCached() { posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED) }

  /// Tells the system what will be done with these bytes, as POSIX_FADV_WILLNEED.
  func advise(_ range: Range<Int>, _ advice: Int32) {
    // Of no bytes the system would take all that follow.
    if !range.isEmpty { posix_fadvise(descriptor, range.lowerBound, range.count, advice) }
  }

  /// Copies bytes of `source` to the same place in this file, inside the kernel where it can; file systems that share bytes between
  /// files (XFS, btrfs) then copy none.
  ///
  /// - Throws: an I/O error, also where the source ends before.
  public func copy(_ range: Range<Int>, of source: borrowing File) throws {
    var from = off_t(range.lowerBound)
    var to = from
    while from < range.upperBound {
      let remaining = range.upperBound - Int(from)
      let count = retrying { espalier_copy_file_range(source.descriptor, &from, descriptor, &to, remaining) }
      if count > 0 { continue }
      // Between disks, and on file systems that know no such call; some of these say that the file is at its end.
      guard count == 0 || [EXDEV, EINVAL, ENOSYS, EOPNOTSUPP].contains(errno) else {
        throw EspalierError.system("copy \(source.path) to", path)
      }
      return try copyThroughMemory(Int(from)..<range.upperBound, of: source)
    }
  }

  private func copyThroughMemory(_ range: Range<Int>, of source: borrowing File) throws {
    var buffer = Buffer<UInt8>(count: min(range.count, 1 << 20))
    for part in parts(of: range.count, size: 1 << 20) {
      try buffer.withUnsafeMutable { bytes in
        let piece = UnsafeMutableRawBufferPointer(
          rebasing: UnsafeMutableRawBufferPointer(bytes)[0..<part.count])
        try source.read(into: piece, at: range.lowerBound + part.lowerBound)
        try write(UnsafeRawBufferPointer(piece), at: range.lowerBound + part.lowerBound)
      }
    }
  }

  /// Maps the first `count` bytes for reading, until they are unmapped; some address where there are none.
  func map(_ count: Int) throws -> UnsafeRawPointer {
    guard count > 0 else { return UnsafeRawPointer(bitPattern: 64)! }
    guard let base = mmap(nil, count, PROT_READ, MAP_PRIVATE, descriptor, 0), base != MAP_FAILED else {
      throw EspalierError.system("map", path)
    }
    return UnsafeRawPointer(base)
  }

  /// What the system knows the file by, valid within `body`.
  func withDescriptor<Result: ~Copyable>(_ body: (Int32) throws -> Result) rethrows -> Result {
    try body(descriptor)
  }

  /// Takes an exclusive lock that the system releases when the process ends; false where another holds it.
  func lock() throws -> Bool {
    if retrying({ flock(descriptor, LOCK_EX | LOCK_NB) }) == 0 { return true }
    if errno == EWOULDBLOCK { return false }
    throw EspalierError.system("lock", path)
  }
}
