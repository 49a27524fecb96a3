import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// Masks and weights that are found together.
@Suite struct ADMMTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// The losses of the rows that were found, of Wanda's masks fitted, and of the best of all masks with that
  /// pattern, fitted.
  private func losses(_ layer: Layer, _ pattern: SparsityPattern) throws
    -> [(found: Double, wanda: Double, best: Double)]
  {
    let (n, ridge) = (layer.columns, layer.ridge(0.01))
    let weight = try layer.weight(in: folder)
    var new: [Float] = []
    let outcome = try pruneByADMM(weight, gram: layer.matrix, pattern: pattern, on: device) {
      new += $0.array()
    }
    #expect(outcome.mask.firstRowOffPattern() == nil)
    let wanda = mostSalient(
      weight, .wanda, diagonal: layer.diagonal, pattern: pattern, on: device)
    let masks = (0..<1 << n).compactMap { choice in
      var mask = Mask(rows: layer.rows, columns: n, pattern: pattern)
      for row in 0..<layer.rows { for column in 0..<n { mask[row, column] = choice >> column & 1 == 1 } }
      return mask.firstRowOffPattern() == nil ? mask : nil
    }
    return (0..<layer.rows).map { row in
      let weights = (0..<n).map { Double(new[row * n + $0]) }
      for column in 0..<n where !outcome.mask[row, column] { #expect(weights[column] == 0) }
      func fitted(_ mask: Mask) -> Double {
        layer.loss(row, layer.fitted(row, mask, ridge: ridge), ridge: ridge)
      }
      return (layer.loss(row, weights, ridge: ridge), fitted(wanda), masks.map(fitted).min() ?? 0)
    }
  }

  /// No mask is better than the best; most are the best, and together they are far closer to it than Wanda's.
  @Test(
    arguments: [.rows(sparsity: 0.5), .groups(keep: 2, of: 4), .rows(sparsity: 1), .rows(sparsity: 0)]
      as [SparsityPattern])
  func itComesCloseToTheBestMask(pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: 3)
    var (found, wanda, best, count, exact) = (0.0, 0.0, 0.0, 0, 0)
    for _ in 0..<16 {
      for row in try losses(Layer.random(&random, rows: 4, columns: 8, tokens: 24), pattern) {
        #expect(row.found >= row.best - 1e-4 * abs(row.best) - 1e-4)
        found += row.found
        wanda += row.wanda
        best += row.best
        count += 1
        exact += row.found <= row.best * 1.001 + 1e-4 ? 1 : 0
      }
    }
    #expect(
      exact * 3 > count * 2 && found - best <= 0.3 * (wanda - best) + 1e-3,
      "\(found), Wanda \(wanda), the best \(best); \(exact) of \(count)")
  }

  @Test(arguments: ["a", "b", "c"])
  func masksAndWeightsAreTheGoldenOnes(name: String) throws {
    let golden = try GoldenLayer(name)
    var new: [Float] = []
    let outcome = try pruneByADMM(
      golden.layer.weight(in: folder), gram: golden.layer.matrix, pattern: golden.pattern, on: device
    ) { new += $0.array() }
    #expect(try outcome.mask == golden.mask("admm.mask"))
    for (one, other) in zip(new, try golden.doubles("admm.weights")) {
      #expect(abs(Double(one) - other) < 2e-5)
    }
  }

  /// The final weights are those that a fit on the mask gives, and lose less than a mask of swaps that is
  /// fitted afterwards.
  @Test(arguments: [.rows(sparsity: 0.6), .groups(keep: 2, of: 4)] as [SparsityPattern])
  func itBeatsAFitAfterSwaps(pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: 17)
    let layer = Layer.random(&random, rows: 270, columns: 96, tokens: 200)
    let weight = try layer.weight(in: folder)
    var results: [[Float]] = []
    for threads in [1, 3] {
      let device = Device(threads: threads)
      var (new, loss): ([Float], Double) = ([], 0)
      let outcome = try pruneByADMM(weight, gram: layer.matrix, pattern: pattern, on: device) { rows in
        loss += Loss(layer.matrix, on: device).ofUpdate(weight, rows, firstRow: new.count / 96).reduce(0, +)
        new += rows.array()
      }
      #expect(outcome.rowsAtLimit == 0 && outcome.mostSteps > 3)
      #expect(abs(outcome.fit.lossAfter / loss - 1) < 1e-3)
      #expect(
        abs(outcome.fit.lossBefore / Loss(layer.matrix, on: device).of(weight, outcome.mask) - 1)
          < 1e-4)
      var again: [Float] = []
      _ = try reconstruct(weight, gram: layer.matrix, mask: outcome.mask, on: device) { again += $0.array() }
      #expect(again == new)
      var mask = mostSalient(
        weight, .wanda, diagonal: layer.diagonal, pattern: pattern, on: device)
      _ = try refineBySwaps(
        weight, gram: layer.matrix, mask: &mask, options: SwapOptions(), on: device)
      let swapped = try reconstruct(weight, gram: layer.matrix, mask: mask, on: device) { _ in }
      #expect(loss < swapped.lossAfter, "\(loss / swapped.lossAfter)")
      results.append(new)
    }
    #expect(results[0] == results[1])
  }

  /// Zero and duplicate columns, fewer inputs than columns, no inputs at all.
  @Test func anyGramMatrixGivesFiniteWeights() throws {
    var random = SeededRandom(seed: 5)
    for trial in 0..<40 {
      var layer = Layer.random(&random, rows: 3, columns: 12, tokens: Int.random(in: 1...14, using: &random))
      if trial == 0 { layer.gram = [Float](repeating: 0, count: 144) }
      let outcome = try pruneByADMM(
        layer.weight(in: folder), gram: layer.matrix, pattern: .groups(keep: 1, of: 3), on: device
      ) { #expect($0.array().allSatisfy { $0.isFinite }) }
      #expect(outcome.mask.firstRowOffPattern() == nil)
      #expect(outcome.fit.lossAfter <= outcome.fit.lossBefore * (1 + 1e-5) + 1e-5)
    }
  }
}
