import CLZ4
import CZstd
import EspalierCore

/// The size of an inner chunk and how it is stored: as it is, or shuffled and compressed; then its CRC-32C.
package struct ChunkFormat: Hashable, Sendable {
  let codec: SpillCodec
  /// Bytes of one element.
  let elementBytes: Int
  /// Bytes of the elements of one chunk.
  package let chunkBytes: Int
  /// Whether the first bytes of all elements come first, then the second ones, and so on, which compresses better.
  let isShuffled: Bool

  /// - Parameter isShuffled: nil for what arrays do: they are shuffled if they are compressed. Benchmarks compare the rest.
  init(codec: SpillCodec, elementBytes: Int, elements: Int, isShuffled: Bool? = nil) {
    precondition((elementBytes == 2 || elementBytes == 4) && elements > 0, "invalid chunk format")
    self.codec = codec
    self.elementBytes = elementBytes
    self.isShuffled = isShuffled ?? (codec != .none)
    chunkBytes = elements * elementBytes
  }

  package init(_ layout: SpillLayout, isShuffled: Bool? = nil) {
    self.init(
      codec: layout.codec, elementBytes: layout.element.byteCount,
      elements: layout.chunkTokens * layout.width, isShuffled: isShuffled)
  }

  /// Upper bound of a stored chunk's size in bytes.
  var largestStored: Int {
    switch codec {
    case .none: chunkBytes + 4
    case .lz4: 4 + Int(LZ4_compressBound(Int32(chunkBytes))) + 4
    case .zstd: ZSTD_compressBound(chunkBytes) + 4
    }
  }

  /// Lower bound of a stored chunk's size in bytes.
  var smallestStored: Int { codec == .none ? chunkBytes + 4 : 5 }

  /// Copies the first elements of a decompressed chunk, and undoes the shuffle.
  fileprivate func arrange(_ chunk: UnsafeRawBufferPointer, into elements: UnsafeMutableRawBufferPointer) {
    if isShuffled {
      Shuffle.undo(chunk, elements, elementBytes: elementBytes)
    } else {
      elements.copyMemory(from: UnsafeRawBufferPointer(rebasing: chunk[..<elements.count]))
    }
  }
}

/// Encodes chunks for a shard file, with buffers that are reused.
package struct ChunkEncoder: ~Copyable {
  let format: ChunkFormat
  private let compressor: ChunkCompressor
  private var shuffled: Buffer<UInt8>
  private var stored: Buffer<UInt8>
  private var storedCount = 0

  package init(_ format: ChunkFormat) throws {
    self.format = format
    compressor = try ChunkCompressor(format.codec)
    shuffled = Buffer(count: format.isShuffled ? format.chunkBytes : 0)
    stored = Buffer(count: format.largestStored)
  }

  /// Encodes one chunk of `format.chunkBytes` bytes; ``withStored(_:)`` gives the result.
  package mutating func encode(_ chunk: UnsafeRawBufferPointer) throws {
    precondition(chunk.count == format.chunkBytes, "a chunk of another size")
    let format = format
    storedCount = try stored.withUnsafeMutable { stored in
      let stored = UnsafeMutableRawBufferPointer(stored)
      let count =
        if format.isShuffled {
          try shuffled.withUnsafeMutable { shuffled in
            let shuffled = UnsafeMutableRawBufferPointer(shuffled)
            Shuffle.apply(chunk, shuffled, elementBytes: format.elementBytes)
            return try compressor.compress(UnsafeRawBufferPointer(shuffled), into: stored)
          }
        } else {
          try compressor.compress(chunk, into: stored)
        }
      let checksum = CRC32C.checksum(stored.bytes.extracting(first: count))
      stored.storeBytes(of: checksum.littleEndian, toByteOffset: count, as: UInt32.self)
      return count + 4
    }
  }

  /// The chunk that was encoded last, as it is stored.
  package borrowing func withStored<Result>(_ body: (UnsafeRawBufferPointer) throws -> Result) rethrows
    -> Result
  {
    try stored.span.extracting(first: storedCount).withUnsafeBytes(body)
  }
}

/// Why stored bytes are not a valid chunk.
package enum ChunkFault: String, Error {
  case size = "has an impossible size"
  case checksum = "does not have its checksum"
  case compression = "cannot be decompressed"
}

/// Decodes stored chunks, which are not trusted.
package struct ChunkDecoder: ~Copyable {
  let format: ChunkFormat
  private let decompressor: ChunkDecompressor
  private var planes: Buffer<UInt8>

  package init(_ format: ChunkFormat) throws {
    self.format = format
    decompressor = try ChunkDecompressor(format.codec)
    planes = Buffer(count: format.codec == .none ? 0 : format.chunkBytes)
  }

  /// Fills `elements` with the first elements of a stored chunk, all of them or fewer.
  package mutating func decode(_ stored: UnsafeRawBufferPointer, into elements: UnsafeMutableRawBufferPointer)
    throws(ChunkFault)
  {
    precondition(
      elements.count <= format.chunkBytes && elements.count % format.elementBytes == 0,
      "invalid number of elements")
    guard stored.count >= format.smallestStored, stored.count <= format.largestStored else { throw .size }
    let body = UnsafeRawBufferPointer(rebasing: stored.dropLast(4))
    let checksum = stored.loadUnaligned(fromByteOffset: body.count, as: UInt32.self)
    guard CRC32C.checksum(body.bytes) == UInt32(littleEndian: checksum) else { throw .checksum }
    let format = format
    guard format.codec != .none else { return format.arrange(body, into: elements) }
    try planes.withUnsafeMutable { (planes) throws(ChunkFault) in
      let planes = UnsafeMutableRawBufferPointer(planes)
      guard decompressor.decompress(body, into: planes) else { throw .compression }
      format.arrange(UnsafeRawBufferPointer(planes), into: elements)
    }
  }
}

/// The context of libzstd or the state of liblz4, made once and used for every chunk.
//
// Not private: release builds with Swift 6.3.1 crash in modules that use a public noncopyable type with a private one inside.
enum ChunkCompressor: ~Copyable {
  case none
  case lz4(LZ4State)
  case zstd(ZstdCompressor)

  init(_ codec: SpillCodec) throws {
    switch codec {
    case .none: self = .none
    case .lz4: self = .lz4(LZ4State())
    case .zstd(let level): self = .zstd(try ZstdCompressor(level: level))
    }
  }

  borrowing func compress(_ bytes: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) throws
    -> Int
  {
    let count: Int
    switch self {
    case .none:
      target.copyMemory(from: bytes)
      return bytes.count
    case .lz4(let state):
      target.storeBytes(of: UInt32(bytes.count).littleEndian, as: UInt32.self)
      count =
        4
        + Int(
          LZ4_compress_fast_extState(
            state.pointer, bytes.baseAddress, target.baseAddress! + 4, Int32(bytes.count),
            Int32(target.count - 4), 1))
      guard count > 4 else { throw EspalierError.internalFault("liblz4 did not compress a chunk.") }
    case .zstd(let context):
      count = ZSTD_compressCCtx(
        context.pointer, target.baseAddress, target.count, bytes.baseAddress, bytes.count, context.level)
      guard ZSTD_isError(count) == 0 else {
        throw EspalierError.internalFault(
          "libzstd did not compress a chunk (\(String(cString: ZSTD_getErrorName(count)))).")
      }
    }
    return count
  }
}

enum ChunkDecompressor: ~Copyable {
  case none
  case lz4
  case zstd(ZstdDecompressor)

  init(_ codec: SpillCodec) throws {
    switch codec {
    case .none: self = .none
    case .lz4: self = .lz4
    case .zstd: self = .zstd(try ZstdDecompressor())
    }
  }

  /// Fills the whole of `target`; false if the bytes are damaged or do not decompress to exactly that size.
  borrowing func decompress(_ bytes: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer)
    -> Bool
  {
    switch self {
    case .none: return false
    case .lz4:
      guard bytes.count > 4,
        UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self)) == UInt32(target.count)
      else { return false }
      let count = LZ4_decompress_safe(
        bytes.baseAddress! + 4, target.baseAddress, Int32(bytes.count - 4), Int32(target.count))
      return Int(count) == target.count
    case .zstd(let context):
      let count = ZSTD_decompressDCtx(
        context.pointer, target.baseAddress, target.count, bytes.baseAddress, bytes.count)
      return ZSTD_isError(count) == 0 && count == target.count
    }
  }
}

struct LZ4State: ~Copyable {
  // Owned by this value and freed in deinit, as are the contexts below.
  let pointer = UnsafeMutableRawPointer.allocate(byteCount: Int(LZ4_sizeofState()), alignment: 64)
  deinit { pointer.deallocate() }
}

struct ZstdCompressor: ~Copyable {
  let pointer: OpaquePointer
  let level: Int32

  init(level: Int) throws {
    guard let pointer = ZSTD_createCCtx() else {
      throw EspalierError(.io, "there is not enough memory to compress.")
    }
    self.pointer = pointer
    self.level = Int32(level)
  }

  deinit { ZSTD_freeCCtx(pointer) }
}

struct ZstdDecompressor: ~Copyable {
  let pointer: OpaquePointer

  init() throws {
    guard let pointer = ZSTD_createDCtx() else {
      throw EspalierError(.io, "there is not enough memory to decompress.")
    }
    self.pointer = pointer
  }

  deinit { ZSTD_freeDCtx(pointer) }
}

/// The shuffle of numcodecs: byte `k` of element `i` of `n` goes to place `k * n + i`.
private enum Shuffle {
  static func apply(
    _ bytes: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer, elementBytes: Int
  ) {
    let count = bytes.count / elementBytes
    guard let source = bytes.baseAddress, let planes = target.baseAddress, target.count >= bytes.count else {
      return
    }
    let first = planes.assumingMemoryBound(to: UInt8.self)
    let second = first + count
    if elementBytes == 2 {
      for index in 0..<count {
        let element = source.loadUnaligned(fromByteOffset: 2 * index, as: UInt16.self).littleEndian
        first[index] = UInt8(truncatingIfNeeded: element)
        second[index] = UInt8(truncatingIfNeeded: element >> 8)
      }
    } else {
      let third = second + count
      let fourth = third + count
      for index in 0..<count {
        let element = source.loadUnaligned(fromByteOffset: 4 * index, as: UInt32.self).littleEndian
        first[index] = UInt8(truncatingIfNeeded: element)
        second[index] = UInt8(truncatingIfNeeded: element >> 8)
        third[index] = UInt8(truncatingIfNeeded: element >> 16)
        fourth[index] = UInt8(truncatingIfNeeded: element >> 24)
      }
    }
  }

  /// Fills `target` with the first elements of the shuffled ones.
  static func undo(
    _ bytes: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer, elementBytes: Int
  ) {
    let stride = bytes.count / elementBytes
    let count = target.count / elementBytes
    guard let planes = bytes.baseAddress, let elements = target.baseAddress, count <= stride else { return }
    let first = planes.assumingMemoryBound(to: UInt8.self)
    let second = first + stride
    if elementBytes == 2 {
      for index in 0..<count {
        let element = UInt16(first[index]) | UInt16(second[index]) << 8
        elements.storeBytes(of: element.littleEndian, toByteOffset: 2 * index, as: UInt16.self)
      }
    } else {
      let third = second + stride
      let fourth = third + stride
      for index in 0..<count {
        let low = UInt32(first[index]) | UInt32(second[index]) << 8
        let element = low | UInt32(third[index]) << 16 | UInt32(fourth[index]) << 24
        elements.storeBytes(of: element.littleEndian, toByteOffset: 4 * index, as: UInt32.self)
      }
    }
  }
}
