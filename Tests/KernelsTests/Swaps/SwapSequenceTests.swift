import CKernels
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

  /// Copies of arrays for as long as it lives.
  private final class Arena {
    private var blocks: [UnsafeMutableRawPointer] = []

    func copy<Element>(_ values: [Element]) -> UnsafeMutablePointer<Element> {
      let block = UnsafeMutableRawPointer.allocate(
        byteCount: max(1, values.count) * MemoryLayout<Element>.stride, alignment: 64)
      blocks.append(block)
      let elements = block.bindMemory(to: Element.self, capacity: max(1, values.count))
      elements.initialize(from: values, count: values.count)
      return elements
    }

    deinit { for block in blocks { block.deallocate() } }
  }

  /// What the kernel finds, another row taking its turns beside it; with `heldOut`, another Gram matrix, and what it says of that.
  static func search(_ problem: Problem, limit: Int, factored: Bool = false, heldOut: [Float]? = nil) -> (
    found: Found, counts: espalier_swap_outcome, held: espalier_held_out
  ) {
    let n = problem.columns
    let arena = Arena()
    let zeros = [Float](repeating: 0, count: n)
    let gram = espalier_gram(
      n: n, elements: factored ? nil : UnsafePointer(arena.copy(problem.gram)),
      rank: factored ? problem.factor.count / n : 0, factor: arena.copy(problem.factor),
      rest: arena.copy(zeros))
    let diagonal = (0..<n).map { Double(problem.gram[$0 * n + $0]) }
    let norms = diagonal.map { Float($0.squareRoot()) + 1e-18 }
    let reach = arena.copy(zeros)
    espalier_raise_correlations(n, 0, n, problem.gram, norms.map { 1 / $0 }, reach)
    for channel in 0..<n { reach[channel] *= 1 + 4e-6 }
    var channels = espalier_swap_channels(
      gram: arena.copy([gram]), diagonal: arena.copy(diagonal), norms: arena.copy(norms), reach: reach)
    let padding = [Double](repeating: 7, count: espalier_swap_padded(n) - n)
    var beside = problem
    beside.weights.reverse()
    var rows = [problem, beside].map { row in
      var given = espalier_swap_row()
      given.w = UnsafePointer(arena.copy(row.weights))
      given.kept = arena.copy(row.kept)
      given.c = arena.copy(row.correlation(row.gram) + padding)
      return given
    }
    if let heldOut {
      var held = espalier_held_out()
      let other = espalier_gram(
        n: n, elements: UnsafePointer(arena.copy(heldOut)), rank: 0, factor: nil, rest: nil)
      held.gram = UnsafePointer(arena.copy([other]))
      held.c = arena.copy(problem.correlation(heldOut))
      rows[0].held = arena.copy([held])
    }
    let scratch = arena.copy(
      [UInt8](repeating: 0xFF, count: rows.count * espalier_swap_scratch(n, problem.span)))
    espalier_swap_search(&channels, problem.span, UInt64(limit), rows.count, &rows, scratch)
    let counts = rows[0].outcome
    let kept = (0..<n).map { rows[0].kept[$0] }
    let found = Found(kept: kept, swaps: Int(counts.moves), before: counts.before, after: counts.after)
    return (found, counts, rows[0].held?.pointee ?? espalier_held_out())
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
        #expect(abs(result.held.before - before) <= 1e-10 * before)
        #expect(abs(result.held.least - least) <= 1e-10 * before)
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
