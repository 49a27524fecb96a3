import Dispatch
import EspalierCore
import Synchronization

/// Hands chunks to a thread that encodes and writes them in order, while the caller fills the next ones.
///
/// Chunks wait in a ring of buffers. After the first error, nothing more is written.
final class SpillThread: Sendable {
  private let shards: Mutex<SpillShards>
  private let ring: [Slot]
  private let free = DispatchSemaphore(value: 0)
  private let queue = DispatchQueue(label: "espalier.spill")
  private let failure = Mutex<(any Error)?>(nil)
  private let next = Atomic<Int>(0)

  private final class Slot: Sendable {
    let elements: Mutex<Buffer<UInt8>>

    init(byteCount: Int) { elements = Mutex(Buffer(count: byteCount)) }
  }

  /// Number of chunks in the ring, at most 16 MiB: enough for a batch of a small model while a shard is synced.
  static func slots(_ layout: SpillLayout) -> Int {
    min(layout.chunkCount, max(2, min(32, (16 << 20) / layout.chunkBytes)))
  }

  init(_ shards: consuming sending SpillShards, _ layout: SpillLayout) {
    self.shards = Mutex(shards)
    ring = (0..<Self.slots(layout)).map { _ in Slot(byteCount: layout.chunkBytes) }
    for _ in ring { free.signal() }
  }

  /// Waits for a free buffer of one chunk, calls `fill` with it, and queues it for writing.
  ///
  /// - Throws: the first error so far, thrown by `fill` or by writing an earlier chunk.
  func append(_ fill: (UnsafeMutableRawBufferPointer) throws -> Void) throws {
    free.wait()
    let slot = ring[next.wrappingAdd(1, ordering: .relaxed).oldValue % ring.count]
    do {
      try check()
      try slot.elements.withLock { elements in
        try elements.withUnsafeMutable { try fill(UnsafeMutableRawBufferPointer($0)) }
      }
    } catch {
      free.signal()
      throw fail(error)
    }
    queue.async {
      self.write(slot)
      self.free.signal()
    }
  }

  private func write(_ slot: Slot) {
    do {
      try check()
      try shards.withLock { shards in
        try slot.elements.withLock { elements in
          try elements.withUnsafe { try shards.append(UnsafeRawBufferPointer($0)) }
        }
      }
    } catch {
      _ = fail(error)
    }
  }

  /// Records the error if it is the first.
  ///
  /// - Returns: the first error.
  func fail(_ error: any Error) -> any Error {
    failure.withLock { failure in
      failure = failure ?? error
      return failure ?? error
    }
  }

  private func check() throws {
    if let failure = failure.withLock({ $0 }) { throw failure }
  }

  /// Returns once everything is on the disk.
  ///
  /// - Throws: the first error.
  func finish() throws -> Digest {
    queue.sync {}
    try check()
    return try shards.withLock { try $0.finish() }
  }

  /// Drops chunks that are not written yet; returns once the thread is done.
  func stop() {
    _ = fail(CancellationError())
    queue.sync {}
  }
}
