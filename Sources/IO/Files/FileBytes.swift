import CLinux
import EspalierCore
import Glibc
import Synchronization

/// How the bytes of a checkpoint's shards come into memory.
public enum ReadMode: String, CaseIterable, Sendable {
  /// The shards are mapped: the system reads pages as they are touched.
  case map
  /// The shards are read piece by piece on request: for network disks, where page faults are slow and a failed one ends the process.
  case pread
}

/// The bytes of a file for reading, either mapped or read on request.
///
/// A mapped byte that cannot be read ends the process; see ``reportFaults(exitCode:)``. If bytes that are read on request cannot be
/// read, zeros take their place and ``requireReadable()`` throws from then on.
public final class FileBytes: Sendable {
  public let path: String
  public let count: Int
  /// Identifies the file that was opened, even if its path leads to another one by now; see ``Folder/Entry/identity``.
  public let identity: String
  private let source: Source
  /// The first read error.
  private let failure = Mutex<(any Error)?>(nil)

  // Unchecked, because a mapping is never written and never moves while its owner lives.
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

  /// Bytes derived from a file, held in memory.
  ///
  /// - Parameter path: the file they come from, for errors.
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

  /// From here on, a mapped byte that cannot be read ends the process with `exitCode` and a message that names the file.
  ///
  /// SIGBUS is the system's only way to report that a mapped file was cut short or its disk failed.
  public static func reportFaults(exitCode: Int32) { espalier_report_faults(exitCode) }

  /// The bytes, valid within `body`.
  ///
  /// - Parameter scratch: what they are read into if they are not mapped; reuse it from call to call.
  public func withBytes<Result: ~Copyable, Failure: Error>(
    _ range: Range<Int>, using scratch: inout ReadScratch,
    _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    precondition(range.lowerBound >= 0 && range.upperBound <= count, "range outside of the file")
    switch source {
    case .mapped(let base):
      return try withExtendedLifetime(self) { () throws(Failure) -> Result in
        try body(UnsafeRawBufferPointer(start: base + range.lowerBound, count: range.count))
      }
    case .opened(let file):
      scratch.grow(to: range.count)
      var bytes = scratch.buffer.mutableSpan
      do {
        try file.read(range, into: &bytes)
      } catch {
        failure.withLock { $0 = $0 ?? error }
        bytes.update(repeating: 0)
      }
      return try scratch.buffer.withUnsafe { all throws(Failure) -> Result in
        try body(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(all)[..<range.count]))
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
    var scratch = ReadScratch()
    return try withBytes(range, using: &scratch, body)
  }

  /// Throws the first error of any read so far: results made from these bytes must not be kept.
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

  /// Gives the mapped pages of these bytes back; the system may still cache them for the next read.
  public func release(_ range: Range<Int>) {
    switch source {
    case .mapped(let base): advise(base, range, MADV_DONTNEED)
    case .opened: break
    case .held: break
    }
  }

  /// Drops these bytes from memory and from the page cache: they will not be read again soon.
  public func forget(_ range: Range<Int>) {
    switch source {
    case .mapped: release(range)
    case .opened(let file): file.advise(range, POSIX_FADV_DONTNEED)
    case .held: break
    }
  }
}

/// A reusable buffer for bytes that are read rather than mapped; it grows to the largest piece.
public struct ReadScratch: ~Copyable {
  fileprivate var buffer = Buffer<UInt8>(unfilled: 0)

  public init() {}

  fileprivate mutating func grow(to count: Int) {
    if buffer.count < count { buffer = Buffer(unfilled: count) }
  }
}
