import Glibc
import Synchronization

/// Mapped memory of buffers that are gone, for the next ones of the same size.
///
/// A forward pass needs the same sizes batch after batch. Returning pages to the system and mapping them again stops all threads
/// each time.
public final class Scratch: Sendable {
  /// The largest block that is kept.
  private static let largest = 32 << 20
  /// The most bytes of all blocks that are kept.
  public static let limit = 64 << 20

  private struct Blocks {
    var addresses: [Int: [UInt]] = [:]
    var byteCount = 0
  }

  private let blocks = Mutex(Blocks())

  public init() {}

  deinit { release() }

  func take(_ bytes: Int) -> UnsafeMutableRawPointer? {
    guard bytes <= Self.largest else { return nil }
    let address = blocks.withLock { blocks -> UInt? in
      guard let address = blocks.addresses[bytes]?.popLast() else { return nil }
      blocks.byteCount -= bytes
      return address
    }
    return address.flatMap(UnsafeMutableRawPointer.init(bitPattern:))
  }

  /// Keeps a block, or returns false if there is no space for it.
  func keep(_ base: UnsafeMutableRawPointer, _ bytes: Int) -> Bool {
    guard bytes <= Self.largest else { return false }
    let address = UInt(bitPattern: base)
    return blocks.withLock { blocks in
      guard blocks.byteCount + bytes <= Self.limit else { return false }
      blocks.addresses[bytes, default: []].append(address)
      blocks.byteCount += bytes
      return true
    }
  }

  /// Returns all of it to the system; call it when work of another kind begins.
  public func release() {
    let all = blocks.withLock { blocks in
      defer { blocks = Blocks() }
      return blocks.addresses
    }
    for (bytes, addresses) in all {
      for address in addresses { munmap(UnsafeMutableRawPointer(bitPattern: address), bytes) }
      MemoryMeter.add(-bytes * addresses.count)
    }
  }
}
