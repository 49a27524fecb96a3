import Synchronization

/// Counts the bytes that buffers hold, those that ``Scratch`` keeps for the next ones included, and the most that they ever held: to
/// prove that no more is taken than was planned.
public enum MemoryMeter {
  private static let current = Atomic<Int>(0)
  private static let most = Atomic<Int>(0)

  /// Bytes of all buffers.
  public static var byteCount: Int { current.load(ordering: .relaxed) }

  /// The most bytes that buffers held at a time since the last reset.
  public static var peak: Int { most.load(ordering: .relaxed) }

  /// Forgets earlier peaks.
  public static func reset() { most.store(byteCount, ordering: .relaxed) }

  static func add(_ bytes: Int) {
    let now = current.wrappingAdd(bytes, ordering: .relaxed).newValue
    if bytes > 0 { most.max(now, ordering: .relaxed) }
  }
}
