import EspalierCore
import Glibc
import SystemPackage

/// Part of a file, mapped for reading and writing: what is written here goes into the file.
///
/// The system loads and drops pages as it likes; ``release(_:)`` drops them at once. What was written is on the disk once the file
/// has been synced.
public struct MappedBuffer: ~Copyable {
  public let byteCount: Int
  /// The start of a page, at most one page before the first byte.
  private let mapping: UnsafeMutableRawPointer
  private let margin: Int

  /// - Precondition: the bytes are reserved on the disk. Otherwise, writing to a full disk kills the process.
  fileprivate init(_ file: borrowing File, range: Range<Int>) throws {
    precondition(range.lowerBound >= 0 && !range.isEmpty)
    byteCount = range.count
    margin = range.lowerBound % pageSize
    let mapped = mmap(
      nil, margin + range.count, PROT_READ | PROT_WRITE, MAP_SHARED, file.descriptor.rawValue,
      range.lowerBound - margin)
    guard let mapped, mapped != MAP_FAILED else { throw EspalierError.system("map for writing", file.path) }
    mapping = mapped
    // Callers that work on tiles know better than the system what is needed next; see prefetch.
    madvise(mapped, margin + range.count, MADV_RANDOM)
  }

  deinit { munmap(mapping, margin + byteCount) }

  /// For IO and Kernels only: the bytes, valid within `body`.
  public mutating func withUnsafeMutable<Result: ~Copyable, Failure: Error>(
    _ body: (UnsafeMutableRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try body(UnsafeMutableRawBufferPointer(start: mapping + margin, count: byteCount))
  }

  /// Tells the system to start reading these bytes.
  public func prefetch(_ range: Range<Int>) {
    for piece in readAheadPieces(place(range)) { advise(mapping, piece, MADV_WILLNEED) }
  }

  /// Gives the pages of these bytes back to the system, which writes changes to the file; touching them reads them again.
  public func release(_ range: Range<Int>) { advise(mapping, place(range), MADV_DONTNEED) }

  /// The position of bytes in the mapping.
  private func place(_ range: Range<Int>) -> Range<Int> {
    precondition(range.lowerBound >= 0 && range.upperBound <= byteCount, "range outside of the mapped bytes")
    return margin + range.lowerBound..<margin + range.upperBound
  }
}

// The mapping has one owner, and writing to it needs exclusive access.
extension MappedBuffer: @unchecked Sendable {}

extension File {
  /// Allocates the file's first `byteCount` bytes on the disk, so that writing them cannot fail for lack of space.
  ///
  /// - Throws: an I/O error, typically because the disk is full.
  func reserve(_ byteCount: Int) throws {
    guard byteCount > 0 else { return }
    while true {
      // It returns its error and leaves errno alone.
      let error = Errno(rawValue: posix_fallocate(descriptor.rawValue, 0, byteCount))
      if error.rawValue == 0 { return }
      guard error == .interrupted else {
        throw EspalierError.system("reserve \(ByteSize(bytes: byteCount)) for", path, error)
      }
    }
  }

  /// Maps bytes of the file, which must be reserved, for reading and writing.
  func mapForWriting(_ range: Range<Int>) throws -> MappedBuffer { try MappedBuffer(self, range: range) }
}
