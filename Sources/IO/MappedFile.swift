import CLinux
import EspalierCore
import Glibc

/// A file mapped into memory for reading; unmapped when the last reference goes.
///
/// Pages come from the disk when they are touched and can be given back at any time with ``release(_:)``.
public final class MappedFile: Sendable {
  public let path: String
  public let count: Int
  /// What was opened, wherever the path leads by now; see ``Folder/Entry/identity``.
  public let identity: String
  // The mapping is never written and never moves while this object lives.
  private nonisolated(unsafe) let base: UnsafeRawPointer

  /// Maps the file at `path`.
  public static func open(_ path: String) throws -> MappedFile { try File(reading: path).map() }

  init(descriptor: Int32, entry: Folder.Entry, path: String) throws {
    self.path = path
    let size = entry.size
    count = size
    identity = entry.identity
    if size == 0 {
      base = UnsafeRawPointer(bitPattern: 64)!
      return
    }
    guard let pointer = mmap(nil, size, PROT_READ, MAP_PRIVATE, descriptor, 0), pointer != MAP_FAILED else {
      throw EspalierError.system("map", path)
    }
    base = UnsafeRawPointer(pointer)
  }

  deinit {
    if count > 0 { munmap(UnsafeMutableRawPointer(mutating: base), count) }
  }

  /// From here on, a mapped byte that cannot be read ends the process with a message that names the file.
  ///
  /// The system has no other way to say that a file became shorter, or its disk failed, than SIGBUS.
  public static func reportFaults(exitCode: Int32) { espalier_report_faults(exitCode) }

  /// The bytes, valid within `body`.
  public func withBytes<Result: ~Copyable, Failure: Error>(
    _ range: Range<Int>, _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    precondition(range.lowerBound >= 0 && range.upperBound <= count, "range outside of the mapped file")
    return try withExtendedLifetime(self) { () throws(Failure) -> Result in
      try body(UnsafeRawBufferPointer(start: base + range.lowerBound, count: range.count))
    }
  }

  /// Tells the system to start reading these bytes.
  public func prefetch(_ range: Range<Int>) { advise(range, MADV_WILLNEED) }

  /// Gives the pages of these bytes back; touching them again reads them again.
  public func release(_ range: Range<Int>) { advise(range, MADV_DONTNEED) }

  private func advise(_ range: Range<Int>, _ advice: Int32) {
    guard count > 0, !range.isEmpty else { return }
    let page = sysconf(Int32(_SC_PAGESIZE))
    let start = range.lowerBound / page * page
    madvise(UnsafeMutableRawPointer(mutating: base + start), range.upperBound - start, advice)
  }
}
