import CKernels
import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// SparseGPT against the same algorithm written plainly, in f64.
@Suite struct SparseGPTTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// U^T U is the inverse, over several panels and an odd rest.
  @Test(arguments: [1, 7, 64, 300, 530])
  func theFactorIsThatOfTheInverse(columns: Int) throws {
    var random = SeededRandom(seed: UInt64(columns))
    let layer = Layer.random(&random, rows: 1, columns: columns, tokens: columns + 40)
    var original = layer.gram
    for i in 0..<columns { original[i * columns + i] += Float(columns) }
    guard let factor = InverseFactor(of: Matrix(rows: columns, columns: columns, original), on: device) else {
      Issue.record("no factor")
      return
    }
    // H U^T U = I, checked on a few columns.
    for column in [0, columns / 3, columns - 1] {
      // U e_column, then U^T of it.
      let up = (0..<columns).map { $0 <= column ? Double(factor.elements[$0, column]) : 0 }
      let inverse = (0..<columns).map { i in
        (0...i).reduce(0.0) { $0 + Double(factor.elements[$1, i]) * up[$1] }
      }
      for row in 0..<columns {
        let sum = (0..<columns).reduce(0.0) { $0 + Double(original[row * columns + $1]) * inverse[$1] }
        #expect(abs(sum - (row == column ? 1 : 0)) < 2e-4)
      }
    }
  }

  @Test func whatIsNotPositiveDefiniteHasNoFactor() {
    for elements: [Float] in [[1, 2, 2, 1], [.nan, 0, 0, 1], [1, 0, 0, 0]] {
      let hasFactor = InverseFactor(of: Matrix(rows: 2, columns: 2, elements), on: device) != nil
      #expect(!hasFactor)
    }
  }

  /// The algorithm from its definition: each column of a row is reached with the inverse of H without the
  /// columns before it.
  struct Plain {
    var kept: [[Bool]]
    var weights: [[Double]]
    /// How far apart what goes and what stays were at least, relative to both.
    var gap = Double.infinity

    init(_ layer: Layer, _ pattern: SparsityPattern, damping: Double, block: Int) {
      let n = layer.columns
      var hessian = (0..<n).map { i in (0..<n).map { Double(layer.gram[i * n + $0]) } }
      let dead = (0..<n).filter { hessian[$0][$0] == 0 }
      for j in dead { hessian[j][j] = 1 }
      let mean = (0..<n).reduce(0.0) { $0 + hessian[$1][$1] } / Double(n)
      for j in 0..<n { hessian[j][j] += damping * mean }
      let inverses = (0..<n).map { start in
        Self.inverse(hessian[start...].map { Array($0[start...]) })
      }
      weights = (0..<layer.rows).map { row in
        (0..<n).map { dead.contains($0) ? 0 : Double(layer.weights[row * n + $0]) }
      }
      kept = weights.map { $0.map { _ in true } }
      let goes = n - pattern.kept(ofColumns: n)
      for start in stride(from: 0, to: n, by: block) {
        let end = min(n, start + block)
        let count = goes * end / n - goes * start / n
        switch pattern {
        case .rows: for row in kept.indices { choose([row], start..<end, count, inverses) }
        case .matrix: choose(Array(kept.indices), start..<end, count * layer.rows, inverses)
        case .groups: break
        }
        for j in start..<end {
          if case .groups(let keep, let of) = pattern, j % of == 0 {
            for row in kept.indices { choose([row], j..<j + of, of - keep, inverses) }
          }
          for row in kept.indices where !kept[row][j] {
            let error = weights[row][j] / inverses[j][0][0]
            for i in j..<n { weights[row][i] -= error * inverses[j][0][i - j] }
            weights[row][j] = 0
          }
        }
      }
    }

    private mutating func choose(_ rows: [Int], _ columns: Range<Int>, _ count: Int, _ inverses: [[[Double]]])
    {
      let scores = rows.flatMap { row in
        columns.map { (row, $0, weights[row][$0] * weights[row][$0] / inverses[$0][0][0]) }
      }
      let order = scores.indices.sorted { (scores[$0].2, $0) < (scores[$1].2, $1) }
      for index in order[..<count] { kept[scores[index].0][scores[index].1] = false }
      if count > 0, count < order.count, scores[order[count]].2 > 0 {
        gap = min(gap, 1 - scores[order[count - 1]].2 / scores[order[count]].2)
      }
    }

    private static func inverse(_ matrix: [[Double]]) -> [[Double]] {
      let n = matrix.count
      var rows = (0..<n).map { i in matrix[i] + (0..<n).map { $0 == i ? 1 : 0 } }
      for pivot in 0..<n {
        let scale = rows[pivot][pivot]
        rows[pivot] = rows[pivot].map { $0 / scale }
        for other in 0..<n where other != pivot {
          let factor = rows[other][pivot]
          for column in 0..<2 * n { rows[other][column] -= factor * rows[pivot][column] }
        }
      }
      return rows.map { Array($0[n...]) }
    }
  }

  @Test(
    arguments: [
      .rows(sparsity: 0.5), .rows(sparsity: 0.7), .matrix(sparsity: 0.6), .groups(keep: 2, of: 4),
      .groups(keep: 1, of: 3), .groups(keep: 0, of: 2), .rows(sparsity: 1), .rows(sparsity: 0),
    ] as [SparsityPattern])
  func itIsTheAlgorithm(pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: 12)
    var compared = 0
    for _ in 0..<60 {
      let columns =
        pattern.span(ofColumns: 1) * Int.random(in: 1...6, using: &random)
        + (pattern.fits(columns: 5) ? 3 : 0)
      let layer = Layer.random(
        &random, rows: 5, columns: columns, tokens: Int.random(in: 1...40, using: &random))
      let block =
        pattern.fits(columns: 5) ? Int.random(in: 2...9, using: &random) : 2 * pattern.span(ofColumns: 5)
      let plain = Plain(layer, pattern, damping: 0.01, block: block)
      var new: [Float] = []
      let outcome = try pruneBySparseGPT(
        layer.weight(in: folder), gram: layer.matrix, pattern: pattern,
        options: SparseGPTOptions(blockColumns: block), on: device
      ) { new += $0.array() }
      #expect(outcome.damping == 0.01 && outcome.mask.firstRowOffPattern() == nil)
      for index in new.indices where !outcome.mask[index / columns, index % columns] {
        #expect(new[index] == 0)
      }
      // Where two costs are equal to rounding either may go.
      guard plain.gap > 1e-3 else { continue }
      compared += 1
      for row in 0..<5 {
        for column in 0..<columns {
          #expect(outcome.mask[row, column] == plain.kept[row][column])
          let expected = plain.weights[row][column]
          #expect(abs(Double(new[row * columns + column]) - expected) < 2e-3 * max(1, abs(expected)))
        }
      }
    }
    #expect(compared > 30)
  }

  @Test(arguments: ["a", "b", "c"], ["obs", "obs.all"])
  func masksAndWeightsAreTheGoldenOnes(name: String, key: String) throws {
    let golden = try GoldenLayer(name)
    var pattern = golden.pattern
    if key == "obs.all" {
      guard case .rows(let sparsity) = pattern else { return }
      pattern = .matrix(sparsity: sparsity)
    }
    var new: [Float] = []
    let outcome = try pruneBySparseGPT(
      golden.layer.weight(in: folder), gram: golden.layer.matrix, pattern: pattern,
      options: SparseGPTOptions(blockColumns: 16), on: device
    ) { new += $0.array() }
    #expect(try outcome.mask == golden.mask("\(key).mask", pattern: pattern))
    for (one, other) in zip(new, try golden.doubles("\(key).weights")) {
      #expect(abs(Double(one) - other) < 1e-4)
    }
  }

  /// A Gram matrix that is not positive definite takes more damping, and the outcome says how much.
  @Test func dampingGrowsUntilThereIsAFactor() throws {
    let layer = Layer(rows: 1, columns: 2, weights: [1, 2], gram: [1, 1.3, 1.3, 1])
    let outcome = try pruneBySparseGPT(
      layer.weight(in: folder), gram: layer.matrix, pattern: .rows(sparsity: 0.5), on: device
    ) { _ in }
    #expect(outcome.damping == 1)
    let broken = Layer(rows: 1, columns: 2, weights: [1, 2], gram: [1, 9, 9, 1])
    #expect(throws: EspalierError.self) {
      try pruneBySparseGPT(
        broken.weight(in: folder), gram: broken.matrix, pattern: .rows(sparsity: 0.5), on: device
      ) { _ in }
    }
  }

  @Test func blocksComeInOrderAndTheThreadsDoNotMatter() throws {
    var random = SeededRandom(seed: 9)
    let layer = Layer.random(&random, rows: 300, columns: 272, tokens: 300)
    let weight = try layer.weight(in: folder)
    for pattern in [SparsityPattern.rows(sparsity: 0.5), .matrix(sparsity: 0.5), .groups(keep: 2, of: 4)] {
      var results: [[Float]] = []
      for threads in [1, 3] {
        let device = Device(threads: threads)
        var (new, loss): ([Float], Double) = ([], 0)
        let outcome = try pruneBySparseGPT(weight, gram: layer.matrix, pattern: pattern, on: device) { rows in
          loss += Loss(layer.matrix, on: device).ofUpdate(weight, rows, firstRow: new.count / 272).reduce(
            0, +)
          new += rows.array()
        }
        let masked = Loss(layer.matrix, on: device).of(weight, outcome.mask)
        #expect(loss < 0.7 * masked, "\(loss) of \(masked)")
        results.append(new)
      }
      #expect(results[0] == results[1] && results[0].count == 300 * 272)
    }
  }

  /// Whatever the instruction set: the same masks, and the weights to rounding.
  @Test func everyInstructionSetGivesTheSame() throws {
    var random = SeededRandom(seed: 23)
    let layer = Layer.random(&random, rows: 20, columns: 132, tokens: 200)
    let weight = try layer.weight(in: folder)
    var all: [(masks: [Mask], weights: [Float])] = []
    for instructions in Device.Instructions.allCases {
      let device = Device(threads: 2, instructions: instructions)
      var new: [Float] = []
      let obs = try pruneBySparseGPT(weight, gram: layer.matrix, pattern: .groups(keep: 2, of: 4), on: device)
      {
        new += $0.array()
      }
      let admm = try pruneByADMM(weight, gram: layer.matrix, pattern: .rows(sparsity: 0.5), on: device) {
        new += $0.array()
      }
      var system = FitSystem(layer.matrix, ReconstructOptions(tolerance: 1e-6))
      system.expectedSteps = 0
      var block = layer.block(obs.mask)
      _ = fit(&block, system, RowShifts(), on: device)
      all.append(([obs.mask, admm.mask], new + block.weights.array()))
    }
    for tier in all.dropFirst() {
      #expect(tier.masks == all[0].masks)
      for (one, other) in zip(tier.weights, all[0].weights) { #expect(abs(one - other) < 1e-3) }
    }
  }
}
