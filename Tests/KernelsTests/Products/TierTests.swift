import CKernels
import Dispatch
import EspalierCore
import EspalierTestSupport
import Glibc
import Synchronization
import Testing

@testable import EspalierKernels

/// Kernels of every instruction set against f64, over odd lengths.
@Suite(.serialized) struct TierTests {
  static let lengths = [1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 511, 1000]

  @Test func allTiersAgreeWithF64() {
    defer { _ = espalier_isa_limit(99) }
    let best = espalier_isa_limit(99)
    for tier in 0...2 where tier <= best {
      #expect(espalier_isa_limit(Int32(tier)) == Int32(tier))
      for count in Self.lengths { check(count) }
    }
  }

  /// Pool threads are reused: what limits a kernel does not limit the next one.
  @Test func aLimitEndsWithTheWorkItIsFor() {
    defer { _ = espalier_isa_limit(99) }
    _ = espalier_isa_limit(0)
    let seen = Mutex<Set<Int32>>([])
    device.forEach(64) { _ in
      usleep(200)
      seen.withLock { _ = $0.insert(espalier_isa()) }
    }
    #expect(seen.withLock { $0 } == [0])
    _ = espalier_isa_limit(99)
    let after = Mutex<Set<Int32>>([])
    DispatchQueue.concurrentPerform(iterations: 64) { _ in
      usleep(200)
      after.withLock { _ = $0.insert(espalier_isa_limit_here()) }
    }
    #expect(after.withLock { $0 } == [99])
  }

  private func check(_ count: Int) {
    var random = SeededRandom(seed: UInt64(count))
    let x = random.normals(count).map { $0 * 3 }
    let w = random.normals(count)
    var y = [Float](repeating: 0, count: count)

    espalier_rms_norm(count, 1e-5, x, w, &y)
    let mean = x.reduce(0.0) { $0 + Double($1) * Double($1) } / Double(count)
    for i in 0..<count { #expect(near(y[i], Double(x[i]) * Double(w[i]) / (mean + 1e-5).squareRoot())) }

    y = x
    espalier_silu_multiply(count, w, &y)
    for i in 0..<count { #expect(near(y[i], Double(x[i]) / (1 + exp(-Double(x[i]))) * Double(w[i]))) }

    let factor: Float = 0.75
    for live in Set([1, (count + 1) / 2, count]) {
      y = x
      espalier_scale(count, espalier_exponentials(count, live, factor, &y), &y)
      let top = x[..<live].map(Double.init).max() ?? 0
      let sum = x[..<live].reduce(0.0) { $0 + exp((Double($1) - top) * Double(factor)) }
      for i in 0..<count {
        #expect(near(y[i], i < live ? exp((Double(x[i]) - top) * Double(factor)) / sum : 0))
      }
    }

    var largest: Float = 0
    var sum = 0.0
    espalier_log_sum_exp(count, x, &largest, &sum)
    #expect(largest == x.max())
    #expect(abs(Double(largest) + log(sum) - log(x.reduce(0.0) { $0 + exp(Double($1)) })) < 1e-6)

    var sums = [Double](repeating: 1, count: count)
    var squares = sums
    espalier_add_moments(count, x, &sums, &squares)
    for i in 0..<count {
      #expect(sums[i] == 1 + Double(x[i]) && squares[i] == 1 + Double(x[i]) * Double(x[i]))
    }
  }

  /// Blocks of rows of a symmetric matrix raise what is known of both channels of every pair.
  @Test func correlationsAreTheLargestOfEveryChannel() {
    defer { _ = espalier_isa_limit(99) }
    let best = espalier_isa_limit(99)
    for tier in 0...2 where tier <= best {
      _ = espalier_isa_limit(Int32(tier))
      for count in [1, 2, 17, 64, 100] {
        var random = SeededRandom(seed: UInt64(count))
        var gram = random.normals(count * count)
        for i in 0..<count { for j in 0..<i { gram[i * count + j] = gram[j * count + i] } }
        let inverse = random.normals(count).map { abs($0) }
        var largest = [Float](repeating: 0, count: count)
        for start in stride(from: 0, to: count, by: 30) {
          let rows = min(30, count - start)
          espalier_raise_correlations(
            count, start, rows, rows * count, Array(gram[start * count..<(start + rows) * count]), inverse,
            &largest)
        }
        for i in 0..<count {
          let expected = (0..<count).filter { $0 != i }.map {
            Double(abs(gram[i * count + $0])) * Double(inverse[i]) * Double(inverse[$0])
          }.max()
          #expect(abs(Double(largest[i]) - (expected ?? 0)) <= 3e-7 * (expected ?? 0))
        }
      }
    }
  }

  private func near(_ value: Float, _ expected: Double) -> Bool {
    abs(Double(value) - expected) <= 4e-7 + 2e-6 * abs(expected)
  }
}
