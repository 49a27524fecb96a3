import EspalierCore
import Glibc

/// Part of a file as memory that is written: what is written here stands in the file.
///
/// Pages come and go as the system likes, and can be given back at any time with ``release(_:)``. What was written is on the disk
/// when the file has been synced.
public struct MappedBuffer: ~Copyable {
  public let byteCount: Int
  /// The start of a page, at most one page before the first byte.
  private let mapping: UnsafeMutableRawPointer
  private let margin: Int

  /// - Precondition: the bytes are reserved on the disk. Else, writing where there is no room kills the process.
  init(descriptor: Int32, range: Range<Int>, path: String) throws {
    precondition(range.lowerBound >= 0 && !range.isEmpty)
    byteCount = range.count
    margin = range.lowerBound % pageSize
    let mapped = mmap(
      nil, margin + range.count, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, range.lowerBound - margin)
    guard let mapped, mapped != MAP_FAILED else { throw EspalierError.system("map for writing", path) }
    mapping = mapped
    // Whoever works on tiles knows better than the system what is needed next; see prefetch.
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

  /// Gives the pages of these bytes back to the system, which writes to the file what was changed; touching them again reads them.
  public func release(_ range: Range<Int>) { advise(mapping, place(range), MADV_DONTNEED) }

  /// Where bytes lie in the mapping.
  private func place(_ range: Range<Int>) -> Range<Int> {
    precondition(range.lowerBound >= 0 && range.upperBound <= byteCount, "range outside of the mapped bytes")
    return margin + range.lowerBound..<margin + range.upperBound
  }
}

// The mapping has one owner, and writing needs exclusive access to it.
extension MappedBuffer: @unchecked Sendable {}

extension File {
  /// Takes room for these bytes on the disk, so that writing them cannot fail for want of it.
  ///
  /// - Throws: an I/O error, on a full disk above all.
  func reserve(_ byteCount: Int) throws {
    guard byteCount > 0 else { return }
    let number = withDescriptor { descriptor in
      while true {
        // It returns its error and leaves errno alone.
        let number = posix_fallocate(descriptor, 0, byteCount)
        if number != EINTR { return number }
      }
    }
    guard number == 0 else {
      throw EspalierError.system("reserve \(ByteSize(bytes: byteCount)) for", path, number)
    }
  }

  /// Maps bytes of the file, which must be reserved, for writing.
  func mapForWriting(_ range: Range<Int>) throws -> MappedBuffer {
    try withDescriptor { try MappedBuffer(descriptor: $0, range: range, path: path) }
  }
}
