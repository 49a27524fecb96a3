import Glibc
import Synchronization

/// Owned memory for `count` elements, aligned to a cache line and zeroed.
///
/// - Complexity: O(count) to create. Freed with its owner; it cannot be copied by accident.
public struct Buffer<Element: BitwiseCopyable>: ~Copyable {
  public let count: Int
  @usableFromInline let base: UnsafeMutablePointer<Element>

  public init(count: Int) { self.init(count: count, isFilled: true) }

  /// A buffer whose elements are whatever the memory held, for those who write every one of them before it is read.
  public init(unfilled count: Int) { self.init(count: count, isFilled: false) }

  private init(count: Int, isFilled: Bool) {
    precondition(count >= 0, "a buffer cannot have a negative count")
    self.count = count
    let bytes = Self.byteCount(count)
    MemoryMeter.add(bytes)
    if let known = SpareMemory.take(bytes) {
      if isFilled { memset(known, 0, bytes) }
      base = known.bindMemory(to: Element.self, capacity: count)
    } else if bytes >= Self.mappedByteCount {
      // The system's own pages are zero already, and go back to it at once: freed blocks of malloc may stay with the process.
      let raw = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
      guard let raw, raw != MAP_FAILED else { fatalError("the system has no \(bytes) bytes of memory left") }
      // Large pages: one fault for 2 MiB and not for 4 KiB.
      if bytes >= 4 << 20 { madvise(raw, bytes, MADV_HUGEPAGE) }
      base = raw.bindMemory(to: Element.self, capacity: count)
    } else {
      let raw = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
      if isFilled { memset(raw, 0, bytes) }
      base = raw.bindMemory(to: Element.self, capacity: max(count, 1))
    }
  }

  deinit {
    let bytes = Self.byteCount(count)
    MemoryMeter.add(-bytes)
    if bytes >= Self.mappedByteCount {
      if !SpareMemory.keep(base, bytes) { munmap(base, bytes) }
    } else {
      UnsafeMutableRawPointer(base).deallocate()
    }
  }

  /// Buffers from this size on are mapped.
  private static var mappedByteCount: Int { 128 << 10 }

  private static func byteCount(_ count: Int) -> Int { max(count, 1) * MemoryLayout<Element>.stride }

  /// Reads or writes one element; the index is checked.
  @inlinable
  public subscript(index: Int) -> Element {
    get {
      precondition(index >= 0 && index < count, "index out of range")
      return base[index]
    }
    set {
      precondition(index >= 0 && index < count, "index out of range")
      base[index] = newValue
    }
  }

  public var span: Span<Element> {
    @_lifetime(borrow self)
    borrowing get {
      _overrideLifetime(Span(_unsafeStart: UnsafePointer(base), count: count), borrowing: self)
    }
  }

  public var mutableSpan: MutableSpan<Element> {
    @_lifetime(&self)
    mutating get {
      _overrideLifetime(MutableSpan(_unsafeStart: base, count: count), mutating: &self)
    }
  }

  /// For IO and Kernels only: the elements as an unsafe buffer, valid within `body`.
  @inlinable
  public borrowing func withUnsafe<Result: ~Copyable, Failure: Error>(
    _ body: (UnsafeBufferPointer<Element>) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try body(UnsafeBufferPointer(start: base, count: count))
  }

  /// For IO and Kernels only: the elements as an unsafe mutable buffer, valid within `body`.
  @inlinable
  public mutating func withUnsafeMutable<Result: ~Copyable, Failure: Error>(
    _ body: (UnsafeMutableBufferPointer<Element>) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try body(UnsafeMutableBufferPointer(start: base, count: count))
  }
}

// The memory has one owner, and mutation needs exclusive access to it.
extension Buffer: @unchecked Sendable where Element: Sendable {}

/// Mapped memory of buffers that are gone, for the next ones of the same size.
///
/// A forward pass needs the same sizes batch after batch; giving pages back and getting them again stops all threads each time.
public enum SpareMemory {
  /// Blocks up to this size are kept, and so many bytes of them.
  private static let (largest, limit) = (8 << 20, 32 << 20)

  private struct Blocks {
    var addresses: [Int: [UInt]] = [:]
    var byteCount = 0
  }

  private static let blocks = Mutex(Blocks())

  fileprivate static func take(_ bytes: Int) -> UnsafeMutableRawPointer? {
    guard bytes <= largest else { return nil }
    let address = blocks.withLock { blocks -> UInt? in
      guard let address = blocks.addresses[bytes]?.popLast() else { return nil }
      blocks.byteCount -= bytes
      return address
    }
    return address.flatMap(UnsafeMutableRawPointer.init(bitPattern:))
  }

  fileprivate static func keep(_ base: UnsafeMutableRawPointer, _ bytes: Int) -> Bool {
    guard bytes <= largest else { return false }
    let address = UInt(bitPattern: base)
    return blocks.withLock { blocks in
      guard blocks.byteCount + bytes <= limit else { return false }
      blocks.addresses[bytes, default: []].append(address)
      blocks.byteCount += bytes
      return true
    }
  }

  /// Gives all of it back to the system; when work of another kind begins.
  public static func release() {
    let all = blocks.withLock { blocks in
      defer { blocks = Blocks() }
      return blocks.addresses
    }
    for (bytes, addresses) in all {
      for address in addresses { munmap(UnsafeMutableRawPointer(bitPattern: address), bytes) }
    }
  }
}
