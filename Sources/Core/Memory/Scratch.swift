import Glibc
import Synchronization

/// Mapped memory of buffers that are gone, for the next ones of about the same size.
///
/// A forward pass needs similar sizes batch after batch. Returning pages to the system and mapping them again stops all threads
/// each time.
public final class Scratch: Sendable {
  /// The largest block that is kept.
  private static let largest = 32 << 20
  /// The most bytes of all blocks that are kept.
  public static let limit = 64 << 20

  private struct Blocks {
    /// By the size that is mapped: addresses, and how much of each is metered.
    var kept: [Int: [(address: UInt, bytes: Int)]] = [:]
    var byteCount = 0
  }

  private let blocks = Mutex(Blocks())

  public init() {}

  deinit { release() }

  /// Bytes that are mapped for a buffer: an eighth of a power of two, so that buffers of similar sizes can take each other's memory.
  static func mappedBytes(_ bytes: Int) -> Int {
    guard bytes <= largest, bytes > 8 else { return bytes }
    let step = 1 << (Int.bitWidth - 1 - (bytes - 1).leadingZeroBitCount - 3)
    return (bytes + step - 1) / step * step
  }

  /// A kept block for a buffer of so many bytes; they are metered as if they were new.
  func take(_ bytes: Int) -> UnsafeMutableRawPointer? {
    let size = Self.mappedBytes(bytes)
    let block = blocks.withLock { blocks -> (address: UInt, bytes: Int)? in
      guard let block = blocks.kept[size]?.popLast() else { return nil }
      blocks.byteCount -= size
      return block
    }
    guard let block else { return nil }
    MemoryMeter.add(bytes - block.bytes)
    return UnsafeMutableRawPointer(bitPattern: block.address)
  }

  /// Keeps the block of a buffer of so many bytes, or returns false if there is no space for it.
  func keep(_ base: UnsafeMutableRawPointer, _ bytes: Int) -> Bool {
    guard bytes <= Self.largest else { return false }
    let (address, size) = (UInt(bitPattern: base), Self.mappedBytes(bytes))
    return blocks.withLock { blocks in
      guard blocks.byteCount + size <= Self.limit else { return false }
      blocks.kept[size, default: []].append((address, bytes))
      blocks.byteCount += size
      return true
    }
  }

  /// Returns all of it to the system; call it when work of another kind begins.
  public func release() {
    let kept = blocks.withLock { blocks in
      defer { blocks = Blocks() }
      return blocks.kept
    }
    for (size, blocks) in kept {
      for block in blocks {
        munmap(UnsafeMutableRawPointer(bitPattern: block.address), size)
        MemoryMeter.add(-block.bytes)
      }
    }
  }
}
