import Glibc

/// Owned memory for `count` elements, aligned to a cache line.
///
/// - Complexity: O(count) to create. It is freed with its owner and cannot be copied by accident.
public struct Buffer<Element: BitwiseCopyable>: ~Copyable {
  public let count: Int
  @usableFromInline let base: UnsafeMutablePointer<Element>
  /// Takes the memory back when the buffer is gone.
  private let scratch: Scratch?

  /// A buffer of zeros.
  ///
  /// - Parameter scratch: where the memory comes from and goes back to; nil for the system.
  public init(count: Int, in scratch: Scratch? = nil) { self.init(count: count, isFilled: true, scratch) }

  /// A buffer with any content, for those who write every element before it is read.
  public init(unfilled count: Int, in scratch: Scratch? = nil) {
    self.init(count: count, isFilled: false, scratch)
  }

  private init(count: Int, isFilled: Bool, _ scratch: Scratch?) {
    precondition(count >= 0, "a buffer cannot have a negative count")
    self.count = count
    self.scratch = scratch
    let bytes = Self.byteCount(count)
    if bytes >= Self.mappedByteCount, let known = scratch?.take(bytes) {
      if isFilled { memset(known, 0, bytes) }
      base = known.bindMemory(to: Element.self, capacity: count)
      return
    }
    MemoryMeter.add(count * MemoryLayout<Element>.stride)
    if bytes >= Self.mappedByteCount {
      let bytes = scratch == nil ? bytes : Scratch.mappedBytes(bytes)
      // New pages are zero, and go back to the system at once: malloc may keep freed blocks for the process.
      let raw = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
      guard let raw, raw != MAP_FAILED else { fatalError("the system has no \(bytes) bytes of memory left") }
      // Large pages: one fault for 2 MiB instead of 512.
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
    if bytes >= Self.mappedByteCount {
      if scratch?.keep(base, bytes) == true { return }
      munmap(base, scratch == nil ? bytes : Scratch.mappedBytes(bytes))
    } else {
      UnsafeMutableRawPointer(base).deallocate()
    }
    MemoryMeter.add(-count * MemoryLayout<Element>.stride)
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

  @inlinable
  public var span: Span<Element> {
    @_lifetime(borrow self)
    borrowing get {
      _overrideLifetime(Span(_unsafeStart: UnsafePointer(base), count: count), borrowing: self)
    }
  }

  @inlinable
  public var mutableSpan: MutableSpan<Element> {
    @_lifetime(&self)
    mutating get {
      _overrideLifetime(MutableSpan(_unsafeStart: base, count: count), mutating: &self)
    }
  }

  /// Some of the elements, for writing.
  @inlinable
  @_lifetime(&self)
  public mutating func part(_ range: Range<Int>) -> MutableSpan<Element> {
    precondition(range.lowerBound >= 0 && range.upperBound <= count, "index out of range")
    return _overrideLifetime(
      MutableSpan(_unsafeStart: base + range.lowerBound, count: range.count), mutating: &self)
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
