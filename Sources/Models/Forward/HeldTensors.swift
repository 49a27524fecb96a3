import EspalierKernels
import Synchronization

/// Weights that a decoder looked up once: one that is stored by columns is a transposed copy, too slow to make for every token.
final class HeldTensors: Sendable {
  private let weights = Mutex<[String: LinearWeight]>([:])

  func weight(_ name: String, _ make: () throws -> LinearWeight) rethrows -> LinearWeight {
    if let known = weights.withLock({ $0[name] }) { return known }
    let made = try make()
    weights.withLock { $0[name] = made }
    return made
  }
}
