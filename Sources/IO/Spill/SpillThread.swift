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

  /// The most chunks that ``append(_:threads:_:)`` takes at a time: the others can be written meanwhile.
  var mostChunks: Int { max(1, ring.count / 2) }

  /// Waits for free buffers of `count` chunks, calls `fill` with the index and the buffer of each, and queues them for writing.
  ///
  /// - Parameter threads: those that fill buffers at the same time.
  /// - Throws: the first error so far, thrown by `fill` or by writing an earlier chunk.
  func append(
    _ count: Int, threads: Int, _ fill: @Sendable (Int, UnsafeMutableRawBufferPointer) throws -> Void
  ) throws {
    for _ in 0..<count { free.wait() }
    let first = next.wrappingAdd(count, ordering: .relaxed).oldValue
    let slots = (0..<count).map { ring[(first + $0) % ring.count] }
    let errors = Mutex<[Int: any Error]>([:])
    let workers = max(1, min(threads, count))
    DispatchQueue.concurrentPerform(iterations: workers) { worker in
      for index in stride(from: worker, to: count, by: workers) {
        do {
          try check()
          try slots[index].elements.withLock { elements in
            try elements.withUnsafeMutable { try fill(index, UnsafeMutableRawBufferPointer($0)) }
          }
        } catch {
          errors.withLock { $0[index] = error }
        }
      }
    }
    if let (_, error) = errors.withLock({ $0.min { $0.key < $1.key } }) {
      for _ in slots { free.signal() }
      throw fail(error)
    }
    for slot in slots {
      queue.async {
        self.write(slot)
        self.free.signal()
      }
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
