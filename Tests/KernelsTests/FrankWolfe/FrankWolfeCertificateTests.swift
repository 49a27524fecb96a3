import EspalierCore
import EspalierKernels
import EspalierTestSupport
import Testing

/// Lower bounds against the best mask, found by trying all.
@Suite struct FrankWolfeCertificateTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// Losses of all sets of entries that may be pruned together in one row, by what is pruned (as bits).
  private func losses(_ problem: FrankWolfeProblem, _ row: Int) -> [Double] {
    let n = problem.columns
    let w = (0..<n).map { Double(problem.weights[row * n + $0]) }
    let gram = problem.gram.map(Double.init)
    var losses = [Double](repeating: 0, count: 1 << n)
    losses.withUnsafeMutableBufferPointer { losses in
      gram.withUnsafeBufferPointer { gram in
        w.withUnsafeBufferPointer { w in
          for set in 1..<losses.count {
            let top = (set.bitWidth - 1) - set.leadingZeroBitCount
            var (cross, rest) = (0.0, set & ~(1 << top))
            while rest != 0 {
              let other = rest.trailingZeroBitCount
              cross += w[other] * gram[top * n + other]
              rest &= rest - 1
            }
            losses[set] = losses[set & ~(1 << top)] + w[top] * (2 * cross + w[top] * gram[top * n + top])
          }
        }
      }
    }
    return losses
  }

  /// The least loss of any mask with the pattern.
  private func best(_ losses: [Double], columns: Int, keep: Int, span: Int) -> Double {
    var best = Double.infinity
    for set in losses.indices {
      var fits = true
      for start in stride(from: 0, to: columns, by: span) where fits {
        fits = ((set >> start) & ((1 << span) - 1)).nonzeroBitCount == span - keep
      }
      if fits { best = min(best, losses[set]) }
    }
    return best
  }

  @Test(
    arguments: [
      SparsityPattern.rows(sparsity: 0.5), .rows(sparsity: 0.8), .groups(keep: 2, of: 4),
      .groups(keep: 1, of: 2),
      .groups(keep: 2, of: 3), .matrix(sparsity: 0.5),
    ], FrankWolfeOptions.Step.allCases)
  func noMaskIsBelowTheBound(pattern: SparsityPattern, step: FrankWolfeOptions.Step) throws {
    var random = SeededRandom(seed: 51)
    var (tight, rows) = (0, 0)
    for trial in 0..<9 {
      let isMatrix = if case .matrix = pattern { true } else { false }
      let span = if case .groups(_, let of) = pattern { of } else { 1 }
      let columns =
        isMatrix
        ? Int.random(in: 2...6, using: &random) : 12 / span * span - trial % 3 * (12 / span / 3) * span
      let problem = try FrankWolfeProblem(
        rows: isMatrix ? 2 : 14, columns: columns, tokens: Int.random(in: 1...30, using: &random), &random,
        folder)
      var mask = problem.start(pattern)
      let outcome = try frankWolfe(
        problem.weight, gram: problem.matrix, mask: &mask,
        options: FrankWolfeOptions(alpha: 0, iterations: [1, 20, 300][trial % 3], step: step), on: device)
      guard let certificate = outcome.certificate else {
        Issue.record("no certificate")
        return
      }
      let own = rowLosses(problem.weight, gram: problem.matrix, mask: mask, on: device)
      #expect(abs(own.reduce(0, +) - outcome.lossAfter) <= 1e-12 * outcome.lossAfter)
      #expect((0...1).contains(certificate.gap(ofLoss: outcome.lossAfter)))
      let keep = pattern.kept(ofColumns: pattern.span(ofColumns: columns))
      if isMatrix {
        // One set of pruned entries for both rows.
        let (first, second) = (losses(problem, 0), losses(problem, 1))
        var least = Double.infinity
        for a in first.indices {
          for b in second.indices where a.nonzeroBitCount + b.nonzeroBitCount == 2 * (columns - keep) {
            least = min(least, first[a] + second[b])
          }
        }
        #expect(certificate.lowerBounds.count == 1)
        #expect(certificate.lowerBound >= 0 && certificate.lowerBound <= least + 1e-9 * outcome.lossBefore)
        continue
      }
      #expect(certificate.lowerBounds.count == problem.rows)
      for row in 0..<problem.rows {
        let least = best(
          losses(problem, row), columns: columns, keep: keep, span: pattern.span(ofColumns: columns))
        let bound = certificate.lowerBounds[row]
        #expect(bound >= 0 && bound <= least + 1e-9 * outcome.lossBefore, "\(bound) > \(least)")
        #expect(bound <= own[row] * (1 + 1e-9) + 1e-12)
        rows += 1
        tight += bound > 0.3 * least ? 1 : 0
      }
    }
    // A bound of 0 would be one too.
    if step == .pairwise, rows > 0 { #expect(tight * 4 > rows) }
  }

  /// Converged, the relaxed optimum is reached: the bound meets the relaxed loss.
  @Test(arguments: [SparsityPattern.rows(sparsity: 0.6), .groups(keep: 2, of: 4), .matrix(sparsity: 0.6)])
  func pairwiseStepsCloseTheGap(pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: 77)
    let problem = try FrankWolfeProblem(rows: 5, columns: 96, tokens: 200, &random, folder)
    var masks = (problem.start(pattern), problem.start(pattern))
    let pairwise = try frankWolfe(
      problem.weight, gram: problem.matrix, mask: &masks.0,
      options: FrankWolfeOptions(alpha: 0, iterations: 400, step: .pairwise, tolerance: 1e-4), on: device)
    let openLoop = try frankWolfe(
      problem.weight, gram: problem.matrix, mask: &masks.1,
      options: FrankWolfeOptions(alpha: 0, iterations: 400), on: device)
    let bound = pairwise.certificate?.lowerBound ?? 0
    #expect(pairwise.gap <= 1.5e-3 * pairwise.relaxedLoss)
    #expect(bound >= pairwise.relaxedLoss * (1 - 2e-3) && bound <= pairwise.relaxedLoss * (1 + 1e-6))
    // The open loop does not get below; in groups it may take less than there is room for, which is another
    // optimum.
    if pattern != .groups(keep: 2, of: 4) { #expect(openLoop.relaxedLoss >= bound) }
    #expect((openLoop.certificate?.lowerBound ?? .infinity) <= bound * (1 + 1e-3))
  }

  /// Bounds do not depend on the mask: what swaps make of it is certified by the same.
  @Test func boundsHoldForSwappedMasks() throws {
    var random = SeededRandom(seed: 3)
    let problem = try FrankWolfeProblem(rows: 30, columns: 48, tokens: 60, &random, folder)
    var mask = problem.start(.rows(sparsity: 0.5))
    let outcome = try frankWolfe(
      problem.weight, gram: problem.matrix, mask: &mask,
      options: FrankWolfeOptions(alpha: 0, iterations: 50, step: .pairwise), on: device)
    func gap() -> Double {
      outcome.certificate?.gap(
        ofLoss: rowLosses(problem.weight, gram: problem.matrix, mask: mask, on: device).reduce(0, +)) ?? 1
    }
    let rounded = gap()
    _ = try refineBySwaps(
      problem.weight, gram: problem.matrix, mask: &mask, options: SwapOptions(), on: device)
    let swapped = gap()
    #expect(swapped < rounded && swapped >= 0)
    for (loss, bound) in zip(
      rowLosses(problem.weight, gram: problem.matrix, mask: mask, on: device),
      outcome.certificate?.lowerBounds ?? [])
    {
      #expect(bound <= loss * (1 + 1e-9))
    }
  }

  @Test func rowLossesAreThoseOfTheDefinition() throws {
    var random = SeededRandom(seed: 9)
    let problem = try FrankWolfeProblem(rows: 70, columns: 140, tokens: 100, &random, folder)
    let mask = problem.start(.rows(sparsity: 0.5))
    for (row, loss) in rowLosses(problem.weight, gram: problem.matrix, mask: mask, on: device).enumerated() {
      let expected = problem.loss(row, problem.kept(mask, row))
      #expect(abs(loss - expected) <= 1e-12 * expected)
    }
  }
}
