import CKernels
import EspalierCore
import EspalierTestSupport
import Testing

/// The search for swaps against a loop in f64 that computes the change of every pair: the same swaps, on every instruction set.
@Suite(.serialized) struct SwapSequenceTests {
  /// One row, its Gram matrix, and its mask at first.
  struct Problem {
    var weights: [Float]
    var gram: [Float]
    /// `rank x columns` where the Gram matrix has a factor.
    var factor: [Float] = []
    var kept: [UInt8]
    var span: Int
    var columns: Int { weights.count }

    /// G ((1-m).w)
    func correlation(_ gram: [Float]) -> [Double] {
      (0..<columns).map { i in
        (0..<columns).reduce(0.0) {
          kept[$1] == 1 ? $0 : $0 + Double(gram[i * columns + $1]) * Double(weights[$1])
        }
      }
    }
  }

  struct Found: Equatable {
    var kept: [UInt8]
    var swaps: Int
    var before: Double
    var after: Double
  }

  /// Correlated channels of any kind: heavy tails, small integers, zero and duplicate channels, fewer inputs than channels.
  static func problem(_ random: inout SeededRandom, columns: Int, span: Int) -> Problem {
    let tokens = Bool.random(using: &random) ? Int.random(in: 1...8, using: &random) : 2 * columns
    let integers = Bool.random(using: &random)
    let (common, spread) = (
      Float.random(in: 0...2, using: &random), Float.random(in: 0...2, using: &random)
    )
    let scales = (0..<columns).map { _ in exponential(random.normal() * spread) }
    var inputs = (0..<tokens).map { _ in
      let shared = random.normal() * common
      return (0..<columns).map {
        integers ? Float(Int.random(in: -3...3, using: &random)) : (random.normal() + shared) * scales[$0]
      }
    }
    for _ in 0..<Int.random(in: 0...3, using: &random) {
      let (from, to) = (
        Int.random(in: 0..<columns, using: &random), Int.random(in: 0..<columns, using: &random)
      )
      let zero = Bool.random(using: &random)
      for token in 0..<tokens { inputs[token][to] = zero ? 0 : inputs[token][from] }
    }
    var weights = (0..<columns).map { _ in
      integers ? Float(Int.random(in: -3...3, using: &random)) : random.normal()
    }
    if Bool.random(using: &random) {
      weights[Int.random(in: 0..<columns, using: &random)] = 0
      weights[Int.random(in: 0..<columns, using: &random)] = weights[0]
    }
    // Now and then nothing is kept.
    let keep = Int.random(in: 0..<8, using: &random) > 0 ? Int.random(in: 0...span, using: &random) : 0
    return Problem(
      weights: weights, gram: gramOf(inputs), factor: integers ? inputs.flatMap { $0 } : [],
      kept: (0..<columns / span).flatMap { _ in
        (0..<span).map { UInt8($0 < keep ? 1 : 0) }.shuffled(using: &random)
      }, span: span)
  }

  static func exponential(_ x: Float) -> Float {
    // Enough digits for a scale.
    var (sum, term) = (Float(1), Float(1))
    for k in 1..<20 {
      term *= x / Float(k)
      sum += term
    }
    return max(sum, 0.01)
  }

  static func gramOf(_ inputs: [[Float]]) -> [Float] {
    let columns = inputs[0].count
    var gram = [Float](repeating: 0, count: columns * columns)
    for i in 0..<columns {
      for j in 0...i {
        var sum = 0.0
        for row in inputs { sum += Double(row[i]) * Double(row[j]) }
        (gram[i * columns + j], gram[j * columns + i]) = (Float(sum), Float(sum))
      }
    }
    return gram
  }

  /// Best-improvement swaps by computing every pair; ties go to the lower u, then the lower p. `each` sees the mask after every swap
  /// and the loss, and ends the row where it returns false.
  static func fullSearch(
    _ problem: Problem, limit: Int, each: ([UInt8], (u: Int, p: Int), Double) -> Bool = { _, _, _ in true }
  ) -> Found {
    let n = problem.columns
    let w = problem.weights.map(Double.init)
    let gram = problem.gram.map(Double.init)
    var kept = problem.kept
    var c = problem.correlation(problem.gram)
    let before = (0..<n).reduce(0.0) { kept[$1] == 1 ? $0 : $0 + w[$1] * c[$1] }
    var found = Found(kept: kept, swaps: 0, before: before, after: before)
    while found.swaps < limit, let best = bestPair(problem, w, gram, c, kept, found.after) {
      (kept[best.u], kept[best.p]) = (0, 1)
      for j in 0..<n { c[j] += w[best.u] * gram[best.u * n + j] - w[best.p] * gram[best.p * n + j] }
      found.after += best.change
      found.swaps += 1
      found.kept = kept
      if !each(kept, (best.u, best.p), found.after) { break }
    }
    return found
  }

  private static func bestPair(
    _ problem: Problem, _ w: [Double], _ gram: [Double], _ c: [Double], _ kept: [UInt8], _ loss: Double
  ) -> (u: Int, p: Int, change: Double)? {
    let (n, span) = (w.count, problem.span)
    let own = (0..<n).map {
      let cross = 2 * w[$0] * c[$0]
      return w[$0] * w[$0] * gram[$0 * n + $0] + (kept[$0] == 1 ? cross : -cross)
    }
    var best: (u: Int, p: Int, change: Double)?
    for u in 0..<n where kept[u] == 1 {
      for p in u / span * span..<(u / span + 1) * span where kept[p] == 0 {
        let change = own[u] + own[p] - 2 * w[u] * w[p] * gram[u * n + p]
        if change < best?.change ?? .infinity { best = (u, p, change) }
      }
    }
    return best.flatMap { $0.change < -1e-9 * loss && loss > 0 ? $0 : nil }
  }

  /// What the kernel finds while another row takes turns with it; with `heldOut`, another Gram matrix, on which the row is followed.
  static func search(_ problem: Problem, limit: Int, factored: Bool = false, heldOut: [Float]? = nil) -> (
    found: Found, counts: espalier_swap_outcome
  ) {
    let n = problem.columns
    var beside = problem
    beside.weights.reverse()
    let rows = [problem, beside]
    let diagonal = (0..<n).map { Double(problem.gram[$0 * n + $0]) }
    let norms = diagonal.map { Float($0.squareRoot()) + 1e-18 }
    var largest = [Float](repeating: 0, count: n)
    espalier_raise_correlations(n, 0, n, n * n, problem.gram, norms.map { 1 / $0 }, &largest)
    for channel in 0..<n { largest[channel] *= 1 + 4e-6 }
    var kept = problem.kept + problem.kept
    var outcomes = [espalier_swap_outcome](repeating: espalier_swap_outcome(), count: 2)
    let bytes = 2 * espalier_swap_scratch(n, problem.span, heldOut == nil ? 0 : 1)
    var scratch = Buffer<UInt8>(count: bytes)
    // The search must not rely on zeros.
    for index in 0..<bytes { scratch[index] = 0xFF }
    let heldC = heldOut.map { held in rows.flatMap { $0.correlation(held) } } ?? []
    let zeros = [Float](repeating: 0, count: n)
    problem.gram.withUnsafeBufferPointer { elements in
      problem.factor.withUnsafeBufferPointer { factor in
        zeros.withUnsafeBufferPointer { zeros in
          (heldOut ?? []).withUnsafeBufferPointer { held in
            scratch.withUnsafeMutable { scratch in
              let gram = espalier_gram(
                n: n, elements: factored ? nil : elements.baseAddress, rank: factored ? factor.count / n : 0,
                factor: factor.baseAddress, rest: zeros.baseAddress)
              let held = espalier_gram(
                n: heldOut == nil ? 0 : n, elements: held.baseAddress, rank: 0, factor: nil, rest: nil)
              espalier_swap_search(
                gram, n, diagonal, norms, largest, problem.span, UInt64(limit), 2 * n,
                rows.flatMap(\.weights), &kept,
                rows.flatMap { $0.correlation($0.gram) }, held, heldC.count, heldC, bytes,
                scratch.baseAddress, 2, [espalier_swap_start(), espalier_swap_start()], &outcomes)
            }
          }
        }
      }
    }
    let counts = outcomes[0]
    let found = Found(
      kept: Array(kept[..<n]), swaps: Int(counts.moves), before: counts.before, after: counts.after)
    return (found, counts)
  }

  private func onEveryTier(_ body: () -> Void) {
    defer { _ = espalier_isa_limit(99) }
    let best = espalier_isa_limit(99)
    for tier in 0...2 where tier <= best {
      _ = espalier_isa_limit(Int32(tier))
      body()
    }
  }

  @Test func everySwapOfSmallRowsIsThatOfAFullSearch() {
    var random = SeededRandom(seed: 31)
    var swaps = 0
    for trial in 0..<1000 {
      let columns = Int.random(in: 1...48, using: &random)
      let problem = Self.problem(&random, columns: columns, span: columns)
      let limit = trial % 4 == 0 ? Int.random(in: 0...5, using: &random) : .max
      let expected = Self.fullSearch(problem, limit: limit)
      swaps += expected.swaps
      onEveryTier {
        let found = Self.search(problem, limit: limit)
        #expect(
          found.found.kept == expected.kept && found.found.swaps == expected.swaps, "trial \(trial)")
        #expect(abs(found.found.after - expected.after) <= 1e-12 * expected.before)
        #expect(found.counts.limited == (expected.swaps >= limit ? 1 : 0))
      }
    }
    #expect(swaps > 2000)
  }

  /// Runs of any length, at any place: their ends fall inside the steps of the search.
  @Test func everySwapWithinRunsIsThatOfAFullSearch() {
    var random = SeededRandom(seed: 32)
    for trial in 0..<120 {
      let span = Int.random(in: 1...40, using: &random)
      let problem = Self.problem(&random, columns: span * Int.random(in: 1...4, using: &random), span: span)
      let expected = Self.fullSearch(problem, limit: .max)
      onEveryTier {
        let found = Self.search(problem, limit: .max).found
        #expect(found.kept == expected.kept && found.swaps == expected.swaps, "trial \(trial)")
      }
    }
  }

  @Test(arguments: [300, 391])
  func everySwapOfALargerRowIsThatOfAFullSearch(columns: Int) {
    var random = SeededRandom(seed: UInt64(columns))
    var problem = Self.problem(&random, columns: columns, span: columns)
    problem.kept = (0..<columns).map { UInt8($0 % 5 < 2 ? 1 : 0) }.shuffled(using: &random)
    let expected = Self.fullSearch(problem, limit: 6)
    onEveryTier {
      let found = Self.search(problem, limit: 6)
      #expect(found.found.kept == expected.kept && found.found.swaps == expected.swaps)
      #expect(found.counts.evaluated < found.counts.choices / 4)
    }
    // At the end of a whole search no pair lowers the loss.
    problem.kept = Self.search(problem, limit: .max).found.kept
    #expect(Self.fullSearch(problem, limit: 1).swaps == 0)
  }

  /// With small integers everything is exact, whatever the order of sums.
  @Test func aFactorGivesTheSwapsOfItsGramMatrix() {
    var random = SeededRandom(seed: 33)
    var checked = 0
    while checked < 150 {
      let columns = Int.random(in: 1...60, using: &random)
      let problem = Self.problem(&random, columns: columns, span: columns)
      guard !problem.factor.isEmpty else { continue }
      checked += 1
      let expected = Self.search(problem, limit: .max).found
      onEveryTier { #expect(Self.search(problem, limit: .max, factored: true).found == expected) }
    }
  }

  /// The row stops ten swaps past its least loss on held-out inputs, and keeps the mask that had it.
  @Test func heldOutInputsEndARow() {
    var random = SeededRandom(seed: 34)
    var (stopped, ended) = (0, 0)
    for trial in 0..<60 {
      let columns = Int.random(in: 50...110, using: &random)
      var problem = Self.problem(&random, columns: columns, span: columns)
      problem.kept = (0..<columns).map { _ in UInt8.random(in: 0...1, using: &random) }
      let other = Self.gramOf((0..<3 * columns).map { _ in random.normals(columns) })
      var (least, at, swaps, own) = (heldOutLoss(problem, other, problem.kept), problem.kept, 0, 0.0)
      let before = least
      var (past, stops) = (0, false)
      let all = Self.fullSearch(problem, limit: .max) { kept, _, loss in
        let value = heldOutLoss(problem, other, kept)
        past += 1
        if value < least { (least, at, swaps, own, past) = (value, kept, swaps + past, loss, 0) }
        stops = past == 10
        return !stops
      }
      if swaps == 0 { own = all.before }
      stopped += stops ? 1 : 0
      ended += !stops && past > 0 ? 1 : 0
      onEveryTier {
        let result = Self.search(problem, limit: .max, heldOut: other)
        #expect(result.found.kept == at && result.found.swaps == swaps, "trial \(trial)")
        #expect(abs(result.found.after - own) <= 1e-11 * all.before)
        #expect(result.counts.stopped == (stops ? 1 : 0))
        #expect(abs(result.counts.held_before - before) <= 1e-10 * before)
        #expect(abs(result.counts.held_after - least) <= 1e-10 * before)
      }
    }
    #expect(stopped > 10 && ended > 10, "\(stopped) \(ended)")
  }

  private func heldOutLoss(_ problem: Problem, _ gram: [Float], _ kept: [UInt8]) -> Double {
    var own = problem
    own.kept = kept
    let c = own.correlation(gram)
    return (0..<problem.columns).reduce(0.0) {
      kept[$1] == 1 ? $0 : $0 + Double(problem.weights[$1]) * c[$1]
    }
  }
}
