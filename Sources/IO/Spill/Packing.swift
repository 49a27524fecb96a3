import CZlib
import CZstd
import EspalierCore
import Glibc

/// How a file is compressed, by the end of its name.
public enum Packing: String, CaseIterable, Sendable {
  case gzip = ".gz"
  case zstd = ".zst"

  /// Nil if the name has neither end.
  public init?(path: String) {
    guard let packing = Self.allCases.first(where: { path.hasSuffix($0.rawValue) }) else { return nil }
    self = packing
  }

  private var program: String {
    switch self {
    case .gzip: "gzip"
    case .zstd: "zstd"
    }
  }

  /// The name without the end that names the compression.
  public func unpackedName(_ path: String) -> String { String(path.dropLast(rawValue.count)) }

  /// The unpacked size in bytes that the file claims; five times its own size if it claims none, or an impossible one.
  public func claimedByteCount(_ path: String) -> Int {
    guard let size = try? Folder.entry(path)?.size else { return 0 }
    let claimed =
      switch self {
      case .gzip: Self.gzipByteCount(path, size: size)
      case .zstd: Self.zstdByteCount(path)
      }
    return claimed.flatMap { (size...1 << 50).contains($0) ? $0 : nil } ?? 5 * size
  }

  /// The size that the last four bytes hold, modulo 2^32.
  private static func gzipByteCount(_ path: String, size: Int) -> Int? {
    guard size > 18, let end = try? File(reading: path).bytes(size - 4..<size) else { return nil }
    let claimed = end.reversed().reduce(0) { $0 << 8 | Int($1) }
    // Deflate compresses at most 1032 to 1, so the file was cut off or is not gzip.
    return claimed > 1032 * size ? nil : claimed
  }

  private static func zstdByteCount(_ path: String) -> Int? {
    guard let start = File.start(of: path, count: 18) else { return nil }
    return Int(exactly: start.withUnsafeBytes { ZSTD_getFrameContentSize($0.baseAddress, $0.count) })
  }

  /// Unpacks the file at `path` into a new one at `target`.
  ///
  /// - Parameter progress: called now and then with the number of packed bytes read so far, and their total.
  /// - Throws: bad input with the position if it is damaged or was cut off; I/O errors; what `progress` throws.
  public func unpack(
    _ path: String, to target: String, progress: (_ done: Int, _ of: Int) throws -> Void = { _, _ in }
  ) throws {
    let file = try File(writing: target, truncate: true)
    var end = 0
    try unpack(path, progress) { bytes in
      try file.write(bytes, at: end)
      end += bytes.byteCount
      return true
    }
  }

  /// The first bytes of what is packed in the file at `path`: `limit` of them, or all if there are fewer.
  ///
  /// - Throws: as ``unpack(_:to:progress:)``, as far as the file is read.
  public func start(of path: String, limit: Int) throws -> [UInt8] {
    var start: [UInt8] = []
    func take(_ bytes: RawSpan) -> Bool {
      bytes.withUnsafeBytes { start += $0.prefix(limit - start.count) }
      return start.count < limit
    }
    try unpack(path, { _, _ in }, take: take)
    return start
  }

  /// - Parameter take: gets the unpacked bytes piece by piece, and says whether to go on.
  private func unpack(_ path: String, _ progress: (Int, Int) throws -> Void, take: (RawSpan) throws -> Bool)
    throws
  {
    switch self {
    case .gzip: try unpack(path, with: GzipStream(), progress, take)
    case .zstd: try unpack(path, with: ZstdStream(), progress, take)
    }
  }

  private func unpack(
    _ path: String, with stream: consuming some UnpackingStream & ~Copyable,
    _ progress: (Int, Int) throws -> Void, _ take: (RawSpan) throws -> Bool
  ) throws {
    let source = try Folder.file(path)
    let size = try source.size()
    var (input, output) = ([UInt8](repeating: 0, count: 1 << 18), [UInt8](repeating: 0, count: 1 << 20))
    for part in parts(of: size, size: input.count) {
      var span = input.mutableSpan
      try source.read(part, into: &span)
      var taken = 0
      var isFull = false
      repeat {
        let step = input[taken..<part.count].withUnsafeBytes { input in
          output.withUnsafeMutableBytes { stream.unpack(input, into: $0) }
        }
        guard let step, step.read > 0 || step.written > 0 || taken == part.count else {
          guard taken > 0 || part.lowerBound > 0 else {
            throw EspalierError.badInput(
              "the name ends in \(rawValue), but the file is not packed with \(program); rename it, or fetch it again.",
              subject: path)
          }
          throw EspalierError.badInput(
            "the packed file is damaged near byte \(part.lowerBound + taken); fetch it again.", subject: path)
        }
        guard try take(output.span.extracting(first: step.written).bytes) else { return }
        taken += step.read
        isFull = step.written == output.count
      } while taken < part.count || isFull
      try progress(part.upperBound, size)
    }
    guard stream.isComplete else {
      throw EspalierError.badInput(
        "the packed file ends at byte \(size), before its content does; fetch it again.", subject: path)
    }
  }
}

/// Unpacks bytes piece by piece.
private protocol UnpackingStream: ~Copyable {
  /// Whether the bytes read so far form a whole file.
  var isComplete: Bool { get }
  /// Unpacks as much of `input` as fits into `output`; nil if it is damaged.
  mutating func unpack(_ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> (
    read: Int, written: Int
  )?
}

private struct GzipStream: ~Copyable, UnpackingStream {
  // At a fixed address, because zlib stores it.
  private let stream: UnsafeMutablePointer<z_stream>
  private(set) var isComplete = false

  init() throws {
    stream = .allocate(capacity: 1)
    stream.initialize(to: z_stream())
    // 15 is the largest window; adding 16 accepts only gzip.
    guard inflateInit2_(stream, 15 + 16, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else {
      throw EspalierError(.io, "there is not enough memory to unpack.")
    }
  }

  deinit {
    inflateEnd(stream)
    stream.deallocate()
  }

  mutating func unpack(_ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> (
    read: Int, written: Int
  )? {
    if isComplete, let first = input.first {
      // What follows is either zeros that pad the last block of a tape, or another member.
      guard first != 0 else { return input.allSatisfy { $0 == 0 } ? (input.count, 0) : nil }
      inflateReset(stream)
      isComplete = false
    }
    guard !isComplete else { return (0, 0) }
    stream.pointee.next_in = UnsafeMutablePointer(
      mutating: input.baseAddress?.assumingMemoryBound(to: UInt8.self))
    stream.pointee.avail_in = UInt32(input.count)
    stream.pointee.next_out = output.baseAddress?.assumingMemoryBound(to: UInt8.self)
    stream.pointee.avail_out = UInt32(output.count)
    switch inflate(stream, Z_NO_FLUSH) {
    case Z_OK, Z_BUF_ERROR: break
    case Z_STREAM_END: isComplete = true
    default: return nil
    }
    return (input.count - Int(stream.pointee.avail_in), output.count - Int(stream.pointee.avail_out))
  }
}

private struct ZstdStream: ~Copyable, UnpackingStream {
  private let context: ZstdDecompressor
  private(set) var isComplete = false

  init() throws { context = try ZstdDecompressor() }

  mutating func unpack(_ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> (
    read: Int, written: Int
  )? {
    // Called again, zstd would ask for another frame, which need not exist.
    guard !isComplete || !input.isEmpty else { return (0, 0) }
    var from = ZSTD_inBuffer(src: input.baseAddress, size: input.count, pos: 0)
    var to = ZSTD_outBuffer(dst: output.baseAddress, size: output.count, pos: 0)
    let left = ZSTD_decompressStream(context.pointer, &to, &from)
    guard ZSTD_isError(left) == 0 else { return nil }
    isComplete = left == 0
    return (from.pos, to.pos)
  }
}
