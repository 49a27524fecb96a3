import CKernels
import CLinux
import COpenBLAS
import Dispatch
import EspalierCore
import Synchronization

/// The threads that kernels share their work among.
///
/// Work is cut into parts that do not depend on the number of threads, and every part is computed by one thread: results are
/// the same for any number.
public enum Threads {
  private static let setting = Atomic<Int>(0)

  /// Threads in use; at first as many as the process may run on.
  public static var count: Int {
    let value = setting.load(ordering: .relaxed)
    return value > 0 ? value : available
  }

  /// Processors that this process may run on.
  public static var available: Int { max(1, Int(espalier_available_processors())) }

  /// Uses `count` threads from now on.
  public static func use(_ count: Int) { setting.store(max(1, count), ordering: .relaxed) }

  /// Parts of at most `most` elements, multiples of `step` but for the last, of which every thread gets as many.
  ///
  /// For work whose results do not depend on how it is cut.
  static func parts(of count: Int, most: Int, step: Int) -> [Range<Int>] {
    let rounds = max(1, (count + self.count * most - 1) / (self.count * most))
    let size = (count + rounds * self.count - 1) / (rounds * self.count)
    return EspalierCore.parts(of: count, size: min(most, (size + step - 1) / step * step))
  }

  /// Calls `body` once for each index below `count`; each thread makes one scratch and keeps it.
  static func forEach<Scratch: ~Copyable>(
    _ count: Int, scratch: @Sendable () -> Scratch, _ body: @Sendable (inout Scratch, Int) -> Void
  ) {
    // The products inside are single-threaded: the parts are the parallelism.
    openblas_set_num_threads(1)
    let workers = min(self.count, count)
    guard workers > 1 else {
      var own = scratch()
      for index in 0..<count { body(&own, index) }
      return
    }
    let next = Atomic<Int>(0)
    let tier = espalier_isa()
    DispatchQueue.concurrentPerform(iterations: workers) { _ in
      // A thread of the system's goes on to other work, which shall not be limited by this.
      let limit = espalier_isa_limit_here()
      defer { _ = espalier_isa_limit(limit) }
      _ = espalier_isa_limit(tier)
      var own = scratch()
      while true {
        let index = next.wrappingAdd(1, ordering: .relaxed).oldValue
        if index >= count { break }
        body(&own, index)
      }
    }
  }

  /// Calls `body` once for each index below `count`.
  static func forEach(_ count: Int, _ body: @Sendable (Int) -> Void) {
    forEach(count, scratch: { () }, { _, index in body(index) })
  }
}
