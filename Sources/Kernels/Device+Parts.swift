import CKernels
import CLinux
import COpenBLAS
import Dispatch
import EspalierCore
import Synchronization

/// Panels of at most 512 columns of a product, for threads to take one after the other.
///
/// Their number is a multiple of four if there are enough columns, so that two or four threads end together. It does not depend on the
/// threads, since the last bits of a product depend on the panel.
func columnPanels(of columns: Int) -> [Range<Int>] { parts(of: columns, size: columnPanelWidth(of: columns)) }

/// Columns of the widest of these panels.
func columnPanelWidth(of columns: Int) -> Int {
  let count = 4 * ((columns + 2047) / 2048)
  return max(64, ((columns + count - 1) / max(1, count) + 15) / 16 * 16)
}

/// How kernels share their work among the threads of a device.
///
/// Work is cut into parts that do not depend on the number of threads, and one thread computes each part. The results are the
/// same for any number of threads.
extension Device {
  /// Processors that this process may run on.
  public static var availableProcessors: Int { max(1, Int(espalier_available_processors())) }

  /// Parts of at most `most` elements, all but the last a multiple of `step`, with as many for one thread as for another.
  ///
  /// For work whose results do not depend on how it is cut.
  func parts(of count: Int, most: Int, step: Int) -> [Range<Int>] {
    let rounds = max(1, (count + threads * most - 1) / (threads * most))
    let size = (count + rounds * threads - 1) / (rounds * threads)
    return EspalierCore.parts(of: count, size: min(most, (size + step - 1) / step * step))
  }

  /// Calls `body` once for each index below `count`. Each thread makes one scratch value and reuses it.
  func forEach<Scratch: ~Copyable>(
    _ count: Int, scratch: @Sendable () -> Scratch, _ body: @Sendable (inout Scratch, Int) -> Void
  ) {
    // The products inside are single-threaded: the parts are the parallelism.
    openblas_set_num_threads(1)
    let workers = min(threads, count)
    let instructions = min(espalier_isa_limit_here(), Int32(instructions.rawValue))
    guard workers > 1 else {
      Self.withInstructions(instructions) {
        var own = scratch()
        for index in 0..<count { body(&own, index) }
      }
      return
    }
    let next = Atomic<Int>(0)
    @Sendable func work() {
      Self.withInstructions(instructions) {
        var index = next.wrappingAdd(1, ordering: .relaxed).oldValue
        guard index < count else { return }
        var own = scratch()
        while index < count {
          body(&own, index)
          index = next.wrappingAdd(1, ordering: .relaxed).oldValue
        }
      }
    }
    if team?.run(work) == true { return }
    DispatchQueue.concurrentPerform(iterations: workers) { _ in work() }
  }

  /// Calls `body` once for each index below `count`.
  package func forEach(_ count: Int, _ body: @Sendable (Int) -> Void) {
    forEach(count, scratch: { () }, { _, index in body(index) })
  }

  /// Runs `body` with no better instructions than these.
  private static func withInstructions(_ instructions: Int32, _ body: () -> Void) {
    // Pool threads are reused: restore the limit.
    let limit = espalier_isa_limit_here()
    defer { _ = espalier_isa_limit(limit) }
    _ = espalier_isa_limit(instructions)
    body()
  }
}
