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
  public func size() throws -> Int {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw EspalierError.system("read the size", path) }
    return Int(status.st_size)
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
      if count < 0 { throw EspalierError.system("read", path) }
      if count == 0 {
        throw EspalierError(
          .io, "the file ends at byte \(offset + done), before what should stand there.", subject: path)
      }
      done += count
    }
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

  /// Copies the whole of `source` to the start of this file, inside the kernel where the file system can.
  public func copy(contentsOf source: borrowing File) throws {
    var remaining = try source.size()
    var from = off_t(0)
    var to = off_t(0)
    while remaining > 0 {
      let count = retrying { espalier_copy_file_range(source.descriptor, &from, descriptor, &to, remaining) }
      if count > 0 {
        remaining -= count
      } else if count == 0 {
        throw EspalierError(
          .io, "the file became shorter while it was copied; run again.", subject: source.path)
      } else if errno == EXDEV || errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP {
        return try copyThroughMemory(source, from: Int(from), count: remaining)
      } else {
        throw EspalierError.system("copy \(source.path) to", path)
      }
    }
  }

  private func copyThroughMemory(_ source: borrowing File, from start: Int, count: Int) throws {
    var buffer = Buffer<UInt8>(count: min(count, 1 << 20))
    for part in parts(of: count, size: 1 << 20) {
      try buffer.withUnsafeMutable { bytes in
        let piece = UnsafeMutableRawBufferPointer(
          rebasing: UnsafeMutableRawBufferPointer(bytes)[0..<part.count])
        try source.read(into: piece, at: start + part.lowerBound)
        try write(UnsafeRawBufferPointer(piece), at: start + part.lowerBound)
      }
    }
  }

  /// Maps the whole file for reading.
  public func map() throws -> MappedFile {
    try MappedFile(descriptor: descriptor, size: size(), path: path)
  }

  /// Takes an exclusive lock that the system releases when the process ends; false where another holds it.
  func lock() throws -> Bool {
    if retrying({ flock(descriptor, LOCK_EX | LOCK_NB) }) == 0 { return true }
    if errno == EWOULDBLOCK { return false }
    throw EspalierError.system("lock", path)
  }
}
