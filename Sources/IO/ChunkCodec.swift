import CLZ4
import CZstd
import EspalierCore

/// The sizes of one inner chunk and how it is stored: shuffled, compressed, followed by its CRC-32C.
struct ChunkFormat: Hashable, Sendable {
  let codec: SpillCodec
  /// Bytes of one element.
  let elementBytes: Int
  /// Bytes of the elements of one chunk.
  let chunkBytes: Int

  init(codec: SpillCodec, elementBytes: Int, elements: Int) {
    precondition((elementBytes == 2 || elementBytes == 4) && elements > 0, "no such chunk")
    self.codec = codec
    self.elementBytes = elementBytes
    chunkBytes = elements * elementBytes
  }

  init(_ layout: SpillLayout) {
    self.init(
      codec: layout.codec, elementBytes: layout.element.byteCount, elements: layout.chunkTokens * layout.width
    )
  }

  /// Bytes of a stored chunk, at most.
  var largestStored: Int {
    switch codec {
    case .none: chunkBytes + 4
    case .lz4: 4 + Int(LZ4_compressBound(Int32(chunkBytes))) + 4
    case .zstd: ZSTD_compressBound(chunkBytes) + 4
    }
  }

  /// Bytes of a stored chunk, at least.
  var smallestStored: Int { codec == .none ? chunkBytes + 4 : 5 }
}

/// Turns chunks into what stands in a shard file, with buffers that are used again and again.
struct ChunkEncoder: ~Copyable {
  let format: ChunkFormat
  private let compressor: ChunkCompressor
  private var shuffled: Buffer<UInt8>
  private var stored: Buffer<UInt8>
  private var storedCount = 0

  init(_ format: ChunkFormat) throws {
    self.format = format
    compressor = try ChunkCompressor(format.codec)
    shuffled = Buffer(count: format.codec == .none ? 0 : format.chunkBytes)
    stored = Buffer(count: format.largestStored)
  }

  /// Encodes one chunk of `format.chunkBytes` bytes; ``withStored(_:)`` then gives the result.
  mutating func encode(_ chunk: UnsafeRawBufferPointer) throws {
    precondition(chunk.count == format.chunkBytes, "a chunk of another size")
    let format = format
    storedCount = try stored.withUnsafeMutable { stored in
      let stored = UnsafeMutableRawBufferPointer(stored)
      var count = format.chunkBytes
      if format.codec == .none {
        Shuffle.apply(chunk, stored, elementBytes: format.elementBytes)
      } else {
        count = try shuffled.withUnsafeMutable { shuffled in
          let shuffled = UnsafeMutableRawBufferPointer(shuffled)
          Shuffle.apply(chunk, shuffled, elementBytes: format.elementBytes)
          return try compressor.compress(UnsafeRawBufferPointer(shuffled), into: stored)
        }
      }
      let checksum = CRC32C.checksum(UnsafeRawBufferPointer(rebasing: stored[..<count]))
      stored.storeBytes(of: checksum.littleEndian, toByteOffset: count, as: UInt32.self)
      return count + 4
    }
  }

  /// The chunk that was encoded last, as it is stored.
  borrowing func withStored<Result>(_ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
    try stored.withUnsafe {
      try body(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer($0)[..<storedCount]))
    }
  }
}

/// Why stored bytes are no chunk.
enum ChunkFault: String, Error {
  case size = "has an impossible size"
  case checksum = "does not have its checksum"
  case compression = "cannot be decompressed"
}

/// Turns stored chunks, which nobody vouches for, back into their bytes.
struct ChunkDecoder: ~Copyable {
  let format: ChunkFormat
  private let decompressor: ChunkDecompressor
  private var shuffled: Buffer<UInt8>

  init(_ format: ChunkFormat) throws {
    self.format = format
    decompressor = try ChunkDecompressor(format.codec)
    shuffled = Buffer(count: format.codec == .none ? 0 : format.chunkBytes)
  }

  /// Fills `chunk`, of `format.chunkBytes` bytes, from what is stored; never writes beyond it.
  mutating func decode(_ stored: UnsafeRawBufferPointer, into chunk: UnsafeMutableRawBufferPointer)
    throws(ChunkFault)
  {
    precondition(chunk.count == format.chunkBytes, "a chunk of another size")
    guard stored.count >= format.smallestStored, stored.count <= format.largestStored else { throw .size }
    let body = UnsafeRawBufferPointer(rebasing: stored.dropLast(4))
    let checksum = stored.loadUnaligned(fromByteOffset: body.count, as: UInt32.self)
    guard CRC32C.checksum(body) == UInt32(littleEndian: checksum) else { throw .checksum }
    guard format.codec != .none else {
      Shuffle.undo(body, chunk, elementBytes: format.elementBytes)
      return
    }
    let elementBytes = format.elementBytes
    try shuffled.withUnsafeMutable { (shuffled) throws(ChunkFault) in
      let shuffled = UnsafeMutableRawBufferPointer(shuffled)
      guard decompressor.decompress(body, into: shuffled) else { throw .compression }
      Shuffle.undo(UnsafeRawBufferPointer(shuffled), chunk, elementBytes: elementBytes)
    }
  }
}

/// The contexts of libzstd or the state of liblz4, made once and used for every chunk.
//
// Not private: in release builds, Swift 6.3.1 crashes in the modules that use a public noncopyable type with
// a private one inside.
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

  /// Fills the whole of `target`; false where the bytes hold less, more or nothing sensible.
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
  // Owned by this value alone; freed in deinit. So are the contexts below.
  let pointer = UnsafeMutableRawPointer.allocate(byteCount: Int(LZ4_sizeofState()), alignment: 64)
  deinit { pointer.deallocate() }
}

struct ZstdCompressor: ~Copyable {
  let pointer: OpaquePointer
  let level: Int32

  init(level: Int) throws {
    guard let pointer = ZSTD_createCCtx() else {
      throw EspalierError(.io, "there is no memory to compress with.")
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
      throw EspalierError(.io, "there is no memory to decompress with.")
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

  static func undo(
    _ bytes: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer, elementBytes: Int
  ) {
    let count = target.count / elementBytes
    guard let planes = bytes.baseAddress, let elements = target.baseAddress, bytes.count >= target.count
    else { return }
    let first = planes.assumingMemoryBound(to: UInt8.self)
    let second = first + count
    if elementBytes == 2 {
      for index in 0..<count {
        let element = UInt16(first[index]) | UInt16(second[index]) << 8
        elements.storeBytes(of: element.littleEndian, toByteOffset: 2 * index, as: UInt16.self)
      }
    } else {
      let third = second + count
      let fourth = third + count
      for index in 0..<count {
        let low = UInt32(first[index]) | UInt32(second[index]) << 8
        let element = low | UInt32(third[index]) << 16 | UInt32(fourth[index]) << 24
        elements.storeBytes(of: element.littleEndian, toByteOffset: 4 * index, as: UInt32.self)
      }
    }
  }
}
