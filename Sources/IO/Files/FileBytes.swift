import CLinux
import EspalierCore
import Glibc
import Synchronization

/// How the bytes of a checkpoint's shards come into memory.
public enum ReadMode: String, CaseIterable, Sendable {
  /// The shards are mapped: the system reads pages as they are touched.
  case map
  /// They are read in pieces as these are needed: for network disks, where faults are slow and a failed one ends the process.
  case pread
}

/// The bytes of a file for reading: mapped, or read when they are asked for; who asks does not see which.
///
/// A mapped byte that cannot be read ends the process, see ``reportFaults(exitCode:)``. Where bytes are read on request, zeros stand
/// in for those that cannot be, and ``requireReadable()`` throws from then on.
public final class FileBytes: Sendable {
  public let path: String
  public let count: Int
  /// What was opened, wherever the path leads by now; see ``Folder/Entry/identity``.
  public let identity: String
  private let source: Source
  /// The first error of a read.
  private let failure = Mutex<(any Error)?>(nil)

  // A mapping is never written and never moves while its owner lives.
  private enum Source: ~Copyable, @unchecked Sendable {
    case mapped(UnsafeRawPointer)
    case opened(File)
    case held(Buffer<UInt8>)
  }

  /// Opens the file at `path`.
  ///
  /// - Throws: an I/O error that names the path.
  public init(_ path: String, reading mode: ReadMode = .map) throws {
    let file = try File(reading: path)
    let entry = try file.entry()
    self.path = path
    count = entry.size
    identity = entry.identity
    switch mode {
    case .map: source = .mapped(try file.map(entry.size))
    case .pread: source = .opened(file)
    }
  }

  /// Bytes that were derived from a file and are held in memory.
  ///
  /// - Parameter path: the file that they come from, for errors.
  init(_ bytes: consuming Buffer<UInt8>, of path: String) {
    self.path = path
    count = bytes.count
    identity = ""
    source = .held(bytes)
  }

  deinit {
    switch source {
    case .mapped(let base) where count > 0: munmap(UnsafeMutableRawPointer(mutating: base), count)
    default: break
    }
  }

  /// From here on, a mapped byte that cannot be read ends the process with a message that names the file.
  ///
  /// The system has no other way to say that a file became shorter, or its disk failed, than SIGBUS.
  public static func reportFaults(exitCode: Int32) { espalier_report_faults(exitCode) }

  /// The bytes, valid within `body`.
  ///
  /// - Parameter room: what they are read into where they are not mapped; who reads often keeps one.
  public func withBytes<Result: ~Copyable, Failure: Error>(
    _ range: Range<Int>, using room: inout ReadRoom,
    _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    precondition(range.lowerBound >= 0 && range.upperBound <= count, "range outside of the file")
    switch source {
    case .mapped(let base):
      return try withExtendedLifetime(self) { () throws(Failure) -> Result in
        try body(UnsafeRawBufferPointer(start: base + range.lowerBound, count: range.count))
      }
    case .opened(let file):
      return try room.withBytes(range.count) { bytes throws(Failure) -> Result in
        do {
          try file.read(into: bytes, at: range.lowerBound)
        } catch {
          failure.withLock { $0 = $0 ?? error }
          memset(bytes.baseAddress!, 0, bytes.count)
        }
        return try body(UnsafeRawBufferPointer(bytes))
      }
    case .held(let bytes):
      return try bytes.withUnsafe { all throws(Failure) -> Result in
        try body(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(all)[range]))
      }
    }
  }

  /// The bytes, valid within `body`.
  public func withBytes<Result: ~Copyable, Failure: Error>(
    _ range: Range<Int>, _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    var room = ReadRoom()
    return try withBytes(range, using: &room, body)
  }

  /// Throws what went wrong when bytes were read, also long before: what was made of them must not be kept.
  public func requireReadable() throws {
    if let error = failure.withLock({ $0 }) { throw error }
  }

  /// Tells the system to start reading these bytes.
  public func prefetch(_ range: Range<Int>) {
    for piece in readAheadPieces(range) {
      switch source {
      case .mapped(let base): advise(base, piece, MADV_WILLNEED)
      case .opened(let file): file.advise(piece, POSIX_FADV_WILLNEED)
      case .held: break
      }
    }
  }

  /// Gives the mapped pages of these bytes back; the system may still hold them for the next read.
  public func release(_ range: Range<Int>) {
    switch source {
    case .mapped(let base): advise(base, range, MADV_DONTNEED)
    case .opened: break
    case .held: break
    }
  }

  /// Gives back all that is held of these bytes: they are not read again soon.
  public func forget(_ range: Range<Int>) {
    switch source {
    case .mapped: release(range)
    case .opened(let file): file.advise(range, POSIX_FADV_DONTNEED)
    case .held: break
    }
  }
}

/// Memory for bytes that are read and not mapped; none before the first, then that of the largest piece.
public struct ReadRoom: ~Copyable {
  private var buffer: Buffer<UInt8>?

  public init() {}

  fileprivate mutating func withBytes<Result: ~Copyable, Failure: Error>(
    _ count: Int, _ body: (UnsafeMutableRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    var bytes = buffer.take() ?? Buffer(unfilled: count)
    if bytes.count < count { bytes = Buffer(unfilled: count) }
    let result = try bytes.withUnsafeMutable { all throws(Failure) -> Result in
      try body(UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(all)[..<count]))
    }
    buffer = consume bytes
    return result
  }
}
