import CZlib
import CZstd
import EspalierCore
import Glibc

/// How a file is packed, by the end of its name.
public enum Packing: String, CaseIterable, Sendable {
  case gzip = ".gz"
  case zstd = ".zst"

  /// nil for a name that tells of no packing.
  public init?(path: String) {
    guard let packing = Self.allCases.first(where: { path.hasSuffix($0.rawValue) }) else { return nil }
    self = packing
  }

  /// The name without the end that tells of the packing.
  public func unpackedName(_ path: String) -> String { String(path.dropLast(rawValue.count)) }

  /// Bytes that the file says it has when it is unpacked; where it does not say, or cannot, five times as many as it has now.
  public func claimedByteCount(_ path: String) -> Int {
    guard let size = try? Folder.entry(path)?.size else { return 0 }
    let claimed =
      switch self {
      case .gzip: Self.gzipByteCount(path, size: size)
      case .zstd: Self.zstdByteCount(path)
      }
    return claimed.flatMap { (size...1 << 50).contains($0) ? $0 : nil } ?? 5 * size
  }

  /// The last four bytes, which hold no more than that; a larger text looks as if it were smaller than its file.
  private static func gzipByteCount(_ path: String, size: Int) -> Int? {
    var count = UInt32(0)
    guard size > 18, let file = try? File(reading: path),
      (try? withUnsafeMutableBytes(of: &count) { try file.read(into: $0, at: size - 4) }) != nil
    else { return nil }
    // Deflate makes nothing smaller than that; so the file was cut off, or is another one.
    let claimed = Int(UInt32(littleEndian: count))
    return claimed > 1032 * size ? nil : claimed
  }

  private static func zstdByteCount(_ path: String) -> Int? {
    guard let start = File.start(of: path, count: 18) else { return nil }
    return Int(exactly: start.withUnsafeBytes { ZSTD_getFrameContentSize($0.baseAddress, $0.count) })
  }

  /// Unpacks the file at `path` into a new one at `target`.
  ///
  /// - Parameter progress: called now and then with the bytes of the packed file that were read, and all of them.
  /// - Throws: bad input where it is damaged or was cut off, with the place; I/O errors; what `progress` throws.
  public func unpack(
    _ path: String, to target: String, progress: (_ done: Int, _ of: Int) throws -> Void = { _, _ in }
  ) throws {
    switch self {
    case .gzip: try Self.unpack(path, to: target, with: GzipStream(), progress)
    case .zstd: try Self.unpack(path, to: target, with: ZstdStream(), progress)
    }
  }

  private static func unpack(
    _ path: String, to target: String, with stream: consuming some UnpackingStream & ~Copyable,
    _ progress: (Int, Int) throws -> Void
  ) throws {
    let source = try Folder.file(path)
    let size = try source.size()
    let file = try File(writing: target, truncate: true)
    var (input, output) = ([UInt8](repeating: 0, count: 1 << 18), [UInt8](repeating: 0, count: 1 << 20))
    var end = 0
    for part in parts(of: size, size: input.count) {
      try input.withUnsafeMutableBytes {
        try source.read(into: .init(rebasing: $0[..<part.count]), at: part.lowerBound)
      }
      var taken = 0
      var isFull = false
      repeat {
        let step = input[taken..<part.count].withUnsafeBytes { input in
          output.withUnsafeMutableBytes { stream.unpack(input, into: $0) }
        }
        guard let step, step.read > 0 || step.written > 0 || taken == part.count else {
          throw EspalierError.badInput(
            "the packed file is damaged near byte \(part.lowerBound + taken); fetch it again.", subject: path)
        }
        try output.withUnsafeBytes { try file.write(.init(rebasing: $0[..<step.written]), at: end) }
        taken += step.read
        end += step.written
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

/// Unpacks bytes that come piece by piece.
private protocol UnpackingStream: ~Copyable {
  /// Whether what was read so far is whole.
  var isComplete: Bool { get }
  /// Takes bytes from the front of `input`, as many as there is room for; nil where they are damaged.
  mutating func unpack(_ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> (
    read: Int, written: Int
  )?
}

private struct GzipStream: ~Copyable, UnpackingStream {
  // zlib keeps its address.
  private let stream: UnsafeMutablePointer<z_stream>
  private(set) var isComplete = false

  init() throws {
    stream = .allocate(capacity: 1)
    stream.initialize(to: z_stream())
    // 15: the largest window; 16 more: gzip, and nothing else.
    guard inflateInit2_(stream, 15 + 16, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else {
      throw EspalierError(.io, "there is no memory to unpack with.")
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
      // Zeros that fill up the last block of a tape, or another member.
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
    // Asked again, it would tell what it wants of a frame that need not come.
    guard !isComplete || !input.isEmpty else { return (0, 0) }
    var from = ZSTD_inBuffer(src: input.baseAddress, size: input.count, pos: 0)
    var to = ZSTD_outBuffer(dst: output.baseAddress, size: output.count, pos: 0)
    let left = ZSTD_decompressStream(context.pointer, &to, &from)
    guard ZSTD_isError(left) == 0 else { return nil }
    isComplete = left == 0
    return (from.pos, to.pos)
  }
}
