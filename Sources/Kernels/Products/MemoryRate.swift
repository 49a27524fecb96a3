import CKernels
import EspalierCore
import Glibc

/// Bytes a second that all threads together read from memory: the best of several turns over more than the caches hold.
public func memoryReadRate(on device: Device) -> Double {
  let count = 32 << 20
  var values = Buffer<Float>(count: count)
  // Pages that were never written are one and the same page of zeros.
  values.withUnsafeMutable { $0.update(repeating: 1) }
  let pieces = parts(of: count, size: 1 << 18)
  var least = Double.infinity
  values.withUnsafe { values in
    nonisolated(unsafe) let values = values.baseAddress!
    for _ in 0..<3 {
      let start = ContinuousClock.now
      device.forEach(pieces.count) { index in
        _ = espalier_first_not_finite_f32(pieces[index].count, values + pieces[index].lowerBound)
      }
      least = min(least, (ContinuousClock.now - start) / .seconds(1))
    }
  }
  return Double(count) * 4 / max(least, 1e-9)
}
