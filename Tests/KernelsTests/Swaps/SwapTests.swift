import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierTestSupport
import Testing

/// Swaps against a search in f64 that computes the loss of every pair from its definition.
@Suite struct SwapTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  struct Problem {
    var weights: [Float]
    var gram: [Float]
    var kept: [Bool]
    var columns: Int
    var span: Int

    /// ((1-m).w)^T G ((1-m).w)
    func loss(_ kept: [Bool]) -> Double {
      var sum = 0.0
      for i in 0..<columns where !kept[i] {
        for j in 0..<columns where !kept[j] {
          sum += Double(weights[i]) * Double(weights[j]) * Double(gram[i * columns + j])
        }
      }
      return sum
    }

    /// The best swap by trying every pair; nil where none lowers the loss.
    func bestSwap(_ kept: [Bool]) -> (u: Int, p: Int, loss: Double)? {
      let before = loss(kept)
      var best: (u: Int, p: Int, loss: Double)?
      for u in 0..<columns where kept[u] {
        for p in 0..<columns where !kept[p] && u / span == p / span {
          var next = kept
          next[u] = false
          next[p] = true
          let after = loss(next)
          if after < (best?.loss ?? before) { best = (u, p, after) }
        }
      }
      // Below the rounding of f32 an improvement is none.
      return best.flatMap { $0.loss < before * (1 - 1e-6) ? $0 : nil }
    }
  }

  /// A random problem: correlated inputs, sometimes zero or duplicate columns or fewer inputs than columns.
  static func problem(_ random: inout SeededRandom, groups: (keep: Int, of: Int)?) -> Problem {
    let columns =
      groups.map { $0.of * Int.random(in: 1...4, using: &random) } ?? Int.random(in: 1...14, using: &random)
    let tokens = Int.random(in: 1...30, using: &random)
    var inputs = (0..<tokens).map { _ in random.normals(columns) }
    let (from, to) = (
      Int.random(in: 0..<columns, using: &random), Int.random(in: 0..<columns, using: &random)
    )
    for token in 0..<tokens {
      let common = random.normal()
      for column in 0..<columns { inputs[token][column] += 0.7 * common }
      switch columns % 3 {
      case 0: inputs[token][to] = inputs[token][from]
      case 1: inputs[token][to] = 0
      default: break
      }
    }
    var gram = [Float](repeating: 0, count: columns * columns)
    for i in 0..<columns {
      for j in 0..<columns {
        gram[i * columns + j] = Float(inputs.reduce(0.0) { $0 + Double($1[i]) * Double($1[j]) })
      }
    }
    for i in 0..<columns { for j in 0..<i { gram[i * columns + j] = gram[j * columns + i] } }
    let keep = Int.random(in: 0...columns, using: &random)
    var kept = (0..<columns).map { $0 < keep }.shuffled(using: &random)
    if let groups {
      kept = (0..<columns / groups.of).flatMap { _ in
        (0..<groups.of).map { $0 < groups.keep }.shuffled(using: &random)
      }
    }
    return Problem(
      weights: random.normals(columns), gram: gram, kept: kept, columns: columns, span: groups?.of ?? columns)
  }

  @Test(arguments: [nil, (2, 4), (1, 2), (4, 8), (3, 5)] as [(keep: Int, of: Int)?])
  func everySwapIsTheBest(groups: (keep: Int, of: Int)?) throws {
    var random = SeededRandom(seed: 21)
    for _ in 0..<200 {
      let problem = Self.problem(&random, groups: groups)
      var kept = problem.kept
      for _ in 0..<4 {
        let before = problem.loss(kept)
        let best = problem.bestSwap(kept)
        let (after, outcome) = try refine(problem, kept, limit: 1)
        #expect(abs(outcome.lossBefore - before) <= 1e-4 * before + 1e-5)
        // The same loss as the best pair gives: of pairs that tie to rounding either may be taken.
        let expected = best?.loss ?? before
        #expect(
          abs(problem.loss(after) - expected) <= 2e-5 * before + 1e-5,
          "\(problem.loss(after)) is not \(expected)")
        #expect(after.count { $0 } == kept.count { $0 })
        kept = after
      }
      let (final, outcome) = try refine(problem, kept, limit: nil)
      let loss = problem.loss(final)
      #expect(abs(outcome.lossAfter - loss) <= 1e-4 * problem.loss(problem.kept) + 1e-5)
      if let better = problem.bestSwap(final) {
        #expect(loss - better.loss <= 2e-5 * problem.loss(problem.kept) + 1e-5)
      }
    }
  }

  /// Small integers are exact in f32, and full of ties: the whole sequence of swaps must be that of a full search in f64.
  @Test(arguments: [nil, (2, 4), (20, 50), (1, 3)] as [(keep: Int, of: Int)?])
  func theSequenceIsThatOfAFullSearch(groups: (keep: Int, of: Int)?) throws {
    var random = SeededRandom(seed: 77)
    var swaps = 0
    for trial in 0..<40 {
      let columns =
        groups.map { $0.of * Int.random(in: 1...max(1, 90 / $0.of), using: &random) }
        ?? Int.random(in: 33...90, using: &random)
      let tokens = Int.random(in: 1...50, using: &random)
      let inputs = (0..<tokens).map { _ in
        (0..<columns).map { Float(Int.random(in: -2...2, using: &random) * ($0 % 7 == trial % 7 ? 5 : 1)) }
      }
      var gram = [Float](repeating: 0, count: columns * columns)
      for row in inputs {
        for i in 0..<columns { for j in 0..<columns { gram[i * columns + j] += row[i] * row[j] } }
      }
      let keep = Int.random(in: 0...columns, using: &random)
      var kept = (0..<columns).map { $0 < keep }.shuffled(using: &random)
      if let groups {
        kept = (0..<columns / groups.of).flatMap { _ in
          (0..<groups.of).map { $0 < groups.keep }.shuffled(using: &random)
        }
      }
      let weights = (0..<columns).map { _ in Float(Int.random(in: -3...3, using: &random)) }
      let problem = Problem(
        weights: weights, gram: gram, kept: kept, columns: columns, span: groups?.of ?? columns)
      let (found, outcome) = try refine(problem, kept, limit: nil)
      let expected = fullSearch(problem)
      #expect(found == expected.kept && outcome.swaps == expected.swaps, "trial \(trial)")
      swaps += outcome.swaps
    }
    #expect(swaps > 200)
  }

  /// Best-improvement swaps by computing the change of every pair in f64; ties go to the lower u, then the lower p.
  private func fullSearch(_ problem: Problem) -> (kept: [Bool], swaps: Int) {
    let n = problem.columns
    let w = problem.weights.map(Double.init)
    let gram = problem.gram.map(Double.init)
    var kept = problem.kept
    var c = (0..<n).map { i in (0..<n).reduce(0.0) { kept[$1] ? $0 : $0 + gram[i * n + $1] * w[$1] } }
    var loss = (0..<n).reduce(0.0) { kept[$1] ? $0 : $0 + w[$1] * c[$1] }
    var swaps = 0
    while true {
      var best: (u: Int, p: Int, change: Double)?
      for u in 0..<n where kept[u] {
        let a = 2 * w[u] * c[u] + w[u] * w[u] * gram[u * n + u]
        for p in u / problem.span * problem.span..<(u / problem.span + 1) * problem.span where !kept[p] {
          let change = a - 2 * w[p] * c[p] + w[p] * w[p] * gram[p * n + p] - 2 * w[u] * w[p] * gram[u * n + p]
          if change < best?.change ?? .infinity { best = (u, p, change) }
        }
      }
      guard let best, best.change < -1e-9 * abs(loss) else { return (kept, swaps) }
      (kept[best.u], kept[best.p]) = (false, true)
      for j in 0..<n { c[j] += w[best.u] * gram[best.u * n + j] - w[best.p] * gram[best.p * n + j] }
      loss += best.change
      swaps += 1
    }
  }

  @Test func aLimitOfNoneReachesTheOptimumAndCountsSwaps() throws {
    var random = SeededRandom(seed: 2)
    let problem = Self.problem(&random, groups: nil)
    let (all, outcome) = try refine(problem, problem.kept, limit: nil)
    var kept = problem.kept
    for _ in 0..<outcome.swaps { kept = try refine(problem, kept, limit: 1).kept }
    #expect(kept == all)
    #expect(outcome.rowsAtLimit == 0 && outcome.mostSwaps == outcome.swaps)
  }

  @Test func anyNumberOfThreadsGivesTheSameMask() throws {
    var random = SeededRandom(seed: 5)
    let (rows, columns) = (300, 96)
    let inputs = random.matrix(200, columns)
    var accumulator = GramAccumulator(columns: columns, diagonalOnly: false, on: device)
    accumulator.add(inputs)
    accumulator.finish()
    let diagonal = (0..<columns).map { accumulator.diagonal[$0] }
    let weight = try write(random.normals(rows * columns), rows, columns)
    guard let gram = accumulator.takeGram() else { return }
    let start = mostSalient(
      weight, .wanda, diagonal: diagonal, pattern: .rows(sparsity: 0.5), on: device)
    var masks: [Mask] = []
    for threads in [1, 2, 5] {
      var mask = start
      let outcome = try refineBySwaps(
        weight, gram: gram, mask: &mask, options: SwapOptions(), on: Device(threads: threads))
      #expect(outcome.lossAfter < outcome.lossBefore)
      masks.append(mask)
    }
    #expect(masks[0] == masks[1] && masks[0] == masks[2])
    #expect(masks[0].firstRowOffPattern() == nil && masks[0] != start)
  }

  private func refine(_ problem: Problem, _ kept: [Bool], limit: Int?) throws -> (
    kept: [Bool], outcome: SwapOutcome
  ) {
    let columns = problem.columns
    let weight = try write(problem.weights, 1, columns)
    let pattern: SparsityPattern =
      problem.span < columns || columns % 4 == 0 && problem.span == 4
      ? .groups(keep: kept.prefix(problem.span).count { $0 }, of: problem.span) : .rows(sparsity: 0)
    var mask = Mask(rows: 1, columns: columns, pattern: pattern)
    for column in 0..<columns { mask[0, column] = kept[column] }
    let outcome = try refineBySwaps(
      weight, gram: GramMatrix(Matrix(rows: columns, columns: columns, problem.gram)), mask: &mask,
      options: SwapOptions(limit: limit), on: device
    ).total
    return ((0..<columns).map { mask[0, $0] }, outcome)
  }

  private func write(_ values: [Float], _ rows: Int, _ columns: Int) throws -> LinearWeight {
    let path = folder.path + "/w.safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("w", .f32, [rows, columns])])
    try writer.append(values)
    try writer.finish()
    return try LinearWeight(SafetensorsFile(path: path).tensor("w"))
  }
}
