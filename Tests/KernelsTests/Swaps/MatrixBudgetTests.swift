import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// Budgets that move from row to row, against a search in f64 that tries every pair of every two rows and every swap.
@Suite(.serialized) struct MatrixBudgetTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  struct Problem {
    var rows: Int
    var columns: Int
    var weights: [Float]
    var gram: [Float]
    var kept: [[Bool]]
    var floor: Double

    func mask(_ pattern: SparsityPattern = .rows(sparsity: 0.5)) -> Mask {
      var mask = Mask(rows: rows, columns: columns, pattern: pattern)
      for row in 0..<rows { for column in 0..<columns { mask[row, column] = kept[row][column] } }
      return mask
    }

    /// ((1-m).w)^T G ((1-m).w) of one row.
    func loss(_ row: Int, _ kept: [Bool]) -> Double {
      var sum = 0.0
      for i in 0..<columns where !kept[i] {
        for j in 0..<columns where !kept[j] {
          sum +=
            Double(weights[row * columns + i]) * Double(weights[row * columns + j])
            * Double(gram[i * columns + j])
        }
      }
      return sum
    }

    func loss(_ kept: [[Bool]]) -> Double { (0..<rows).reduce(0) { $0 + loss($1, kept[$1]) } }
  }

  static func problem(_ random: inout SeededRandom, integers: Bool, columns: Int? = nil) -> Problem {
    let rows = Int.random(in: 1...7, using: &random)
    let columns = columns ?? Int.random(in: 1...12, using: &random)
    let inputs = (0..<Int.random(in: 1...16, using: &random)).map { _ in
      (0..<columns).map { _ in integers ? Float(Int.random(in: -2...2, using: &random)) : random.normal() }
    }
    var gram = [Double](repeating: 0, count: columns * columns)
    for row in inputs {
      for i in 0..<columns {
        for j in 0..<columns { gram[i * columns + j] += Double(row[i]) * Double(row[j]) }
      }
    }
    var weights: [Float] = []
    var kept: [[Bool]] = []
    let keep = Int.random(in: 0...columns, using: &random)
    for row in 0..<rows {
      // Some rows matter more than others, so that weights have somewhere to go.
      let scale = Float(row % 3 == 0 ? 3 : 1)
      weights += (0..<columns).map { _ in
        scale * (integers ? Float(Int.random(in: -3...3, using: &random)) : random.normal())
      }
      kept.append((0..<columns).map { $0 < keep }.shuffled(using: &random))
    }
    return Problem(
      rows: rows, columns: columns, weights: weights, gram: gram.map(Float.init), kept: kept,
      floor: [0, 0.5, 1][Int.random(in: 0...2, using: &random)])
  }

  /// What flipping weights of a row changes: `2 d.c + d^T G d`, c = G ((1-m).w).
  private struct Flips {
    let problem: Problem
    let row: Int
    let kept: [Bool]
    let c: [Double]

    init(_ problem: Problem, _ row: Int, _ kept: [Bool]) {
      let n = problem.columns
      self.problem = problem
      self.row = row
      self.kept = kept
      c = (0..<n).map { i in
        var sum = 0.0
        for j in 0..<n where !kept[j] {
          sum += Double(problem.gram[i * n + j]) * Double(problem.weights[row * n + j])
        }
        return sum
      }
    }

    func change(_ flipped: [Int]) -> Double {
      let n = problem.columns
      let d = flipped.map { Double(problem.weights[row * n + $0]) * (kept[$0] ? 1 : -1) }
      var change = 0.0
      for i in flipped.indices {
        change += 2 * d[i] * c[flipped[i]]
        for j in flipped.indices { change += d[i] * d[j] * Double(problem.gram[flipped[i] * n + flipped[j]]) }
      }
      return change
    }
  }

  /// Best swaps of a row until none helps.
  private func settle(_ problem: Problem, _ row: Int, _ kept: inout [Bool]) -> Int {
    var swaps = 0
    while true {
      let flips = Flips(problem, row, kept)
      var best: (u: Int, p: Int, change: Double)?
      for u in 0..<problem.columns where kept[u] {
        for p in 0..<problem.columns where !kept[p] {
          let change = flips.change([u, p])
          if change < best?.change ?? .infinity { best = (u, p, change) }
        }
      }
      guard let best, best.change < -1e-9 * problem.loss(row, kept) else { return swaps }
      kept[best.u] = false
      kept[best.p] = true
      swaps += 1
    }
  }

  /// The best move between any two rows, by trying all; nil where none lowers the loss.
  private func bestMove(
    _ problem: Problem, _ kept: [[Bool]], floors: [Int]
  ) -> (from: Int, u: Int, to: Int, p: Int, change: Double)? {
    let flips = (0..<problem.rows).map { row in
      let flips = Flips(problem, row, kept[row])
      return (0..<problem.columns).map { flips.change([$0]) }
    }
    var best: (from: Int, u: Int, to: Int, p: Int, change: Double)?
    for from in 0..<problem.rows where kept[from].count(where: { $0 }) > floors[from] {
      for u in 0..<problem.columns where kept[from][u] {
        for to in 0..<problem.rows where to != from {
          for p in 0..<problem.columns where !kept[to][p] {
            let change = flips[from][u] + flips[to][p]
            if change < best?.change ?? .infinity { best = (from, u, to, p, change) }
          }
        }
      }
    }
    return best.flatMap { $0.change < -1e-9 * problem.loss(kept) ? $0 : nil }
  }

  private func floors(_ problem: Problem) -> [Int] {
    problem.kept.map { Int((problem.floor * Double($0.count { $0 })).rounded(.up)) }
  }

  /// Small integers are exact, and full of ties: all moves and swaps must be those of the full search.
  @Test func everyMoveIsTheBestOfAll() throws {
    var random = SeededRandom(seed: 8)
    var (moves, swaps, held) = (0, 0, 0)
    for trial in 0..<1000 {
      // A few rows are longer than what the search looks at whole.
      let problem = Self.problem(&random, integers: true, columns: trial % 100 == 0 ? 33 + trial / 100 : nil)
      let floors = floors(problem)
      var kept = problem.kept
      var expected = (moves: 0, swaps: 0)
      for row in 0..<problem.rows { expected.swaps += settle(problem, row, &kept[row]) }
      while let move = bestMove(problem, kept, floors: floors) {
        kept[move.from][move.u] = false
        kept[move.to][move.p] = true
        for row in [move.from, move.to] { expected.swaps += settle(problem, row, &kept[row]) }
        expected.moves += 1
      }
      let instructions = Device.Instructions.allCases[trial % 3]
      let (found, outcome) = try refine(problem, instructions)
      #expect(found == kept, "trial \(trial)")
      #expect(outcome.moves == expected.moves && outcome.swaps == expected.swaps)
      #expect(outcome.lossBefore == problem.loss(problem.kept) && outcome.lossAfter == problem.loss(kept))
      #expect(outcome.drift == 0)
      moves += expected.moves
      swaps += expected.swaps
      held += zip(kept, floors).count { row, floor in floor > 0 && row.count { $0 } == floor } > 0 ? 1 : 0
    }
    #expect(moves > 300 && swaps > 300 && held > 50)
  }

  @Test func realValuesEndWhereNothingHelps() throws {
    var random = SeededRandom(seed: 31)
    for _ in 0..<500 {
      let problem = Self.problem(&random, integers: false)
      let (kept, outcome) = try refine(problem)
      let before = problem.loss(problem.kept)
      let after = problem.loss(kept)
      #expect(abs(outcome.lossBefore - before) <= 1e-5 * before + 1e-9)
      #expect(abs(outcome.lossAfter - after) <= 1e-5 * before + 1e-9)
      #expect(outcome.lossAfter <= outcome.lossBefore && outcome.drift < 1e-4)
      let floors = floors(problem)
      #expect(kept.map { $0.count { $0 } }.reduce(0, +) == problem.kept.map { $0.count { $0 } }.reduce(0, +))
      for (row, floor) in zip(kept, floors) { #expect(row.count { $0 } >= floor) }
      #expect(bestMove(problem, kept, floors: floors)?.change ?? 0 >= -1e-5 * before)
      for row in 0..<problem.rows {
        var settled = kept[row]
        _ = settle(problem, row, &settled)
        #expect(problem.loss(row, settled) >= problem.loss(row, kept[row]) - 1e-5 * before)
      }
    }
  }

  @Test func aFullFloorMovesNothing() throws {
    var random = SeededRandom(seed: 4)
    for _ in 0..<40 {
      var problem = Self.problem(&random, integers: true)
      problem.floor = 1
      let (kept, outcome) = try refine(problem)
      #expect(outcome.moves == 0)
      for row in 0..<problem.rows {
        var settled = problem.kept[row]
        _ = settle(problem, row, &settled)
        #expect(kept[row] == settled)
      }
    }
  }

  @Test func theMatrixKeepsItsCountAndGetsItsPattern() throws {
    var random = SeededRandom(seed: 15)
    let (rows, columns) = (300, 48)
    let problem = Self.large(rows, columns, &random)
    let weight = try write(problem.weights, rows, columns)
    var mask = problem.mask()
    let outcome = refineAcrossRows(
      weight, gram: GramMatrix(Matrix(rows: columns, columns: columns, problem.gram)), mask: &mask,
      options: SwapOptions(budget: .matrix(floor: 0.25)), on: Device(threads: 2)
    ) { _, _ in }
    #expect(mask.pattern == .matrix(sparsity: 0.5) && mask.firstRowOffPattern() == nil)
    #expect(mask.keptCount == problem.mask().keptCount)
    let counts = (0..<rows).map { mask.keptCount(row: $0) }
    #expect(counts.min() == outcome.fewestKept && counts.max() == outcome.mostKept)
    #expect(
      outcome.fewestKept >= 6 && outcome.fewestKept < 24 && outcome.mostKept > 24 && outcome.moves > 100)
    // A second time finds nothing left to do.
    let once = mask
    let again = refineAcrossRows(
      weight, gram: GramMatrix(Matrix(rows: columns, columns: columns, problem.gram)), mask: &mask,
      options: SwapOptions(budget: .matrix(floor: 0)), on: Device(threads: 2)
    ) { _, _ in }
    #expect(again.lossBefore == outcome.lossAfter && again.lossAfter <= again.lossBefore)
    #expect(mask.pattern == once.pattern && mask.keptCount == once.keptCount)
    // Rows that may give nothing leave more.
    var alone = problem.mask()
    let row = refineAcrossRows(
      weight, gram: GramMatrix(Matrix(rows: columns, columns: columns, problem.gram)), mask: &alone,
      options: SwapOptions(budget: .matrix(floor: 1)), on: Device(threads: 2)
    ) { _, _ in }
    #expect(row.moves == 0 && outcome.lossAfter < row.lossAfter)
  }

  @Test func aLimitIsThatOfSwapsInARow() throws {
    var random = SeededRandom(seed: 16)
    let (rows, columns) = (60, 48)
    let problem = Self.large(rows, columns, &random)
    let weight = try write(problem.weights, rows, columns)
    let gram = GramMatrix(Matrix(rows: columns, columns: columns, problem.gram))
    for limit in [0, 3] {
      var mask = problem.mask()
      let outcome = refineAcrossRows(
        weight, gram: gram, mask: &mask, options: SwapOptions(limit: limit, budget: .matrix(floor: 0)),
        on: Device(threads: 2)
      ) { _, _ in }
      #expect(outcome.mostSwaps == limit && outcome.rowsAtLimit > 0 && outcome.moves > 0)
    }
  }

  @Test func anyNumberOfThreadsGivesTheSameMask() throws {
    var random = SeededRandom(seed: 17)
    let (rows, columns) = (80, 40)
    let problem = Self.large(rows, columns, &random)
    let weight = try write(problem.weights, rows, columns)
    let gram = GramMatrix(Matrix(rows: columns, columns: columns, problem.gram))
    var masks: [Mask] = []
    for threads in [1, 2, 5] {
      var mask = problem.mask()
      _ = refineAcrossRows(
        weight, gram: gram, mask: &mask, options: SwapOptions(budget: .matrix(floor: 0.1)),
        on: Device(threads: threads)
      ) { _, _ in }
      masks.append(mask)
    }
    #expect(masks[0] == masks[1] && masks[0] == masks[2])
  }

  @Test func anInterruptionLeavesTheMask() throws {
    var random = SeededRandom(seed: 18)
    let problem = Self.large(300, 32, &random)
    let weight = try write(problem.weights, 300, 32)
    struct Stop: Error {}
    for last in [1, 2, 3] {
      var mask = problem.mask()
      var calls = 0
      #expect(throws: Stop.self) {
        try refineAcrossRows(
          weight, gram: GramMatrix(Matrix(rows: 32, columns: 32, problem.gram)), mask: &mask,
          options: SwapOptions(budget: .matrix(floor: 0)), on: Device(threads: 2)
        ) { done, all in
          calls += 1
          #expect(done <= 300 && all == 300)
          if calls == last { throw Stop() }
        }
      }
      #expect(mask == problem.mask())
    }
  }

  /// Half of each row kept at random; rows of different weight.
  private static func large(_ rows: Int, _ columns: Int, _ random: inout SeededRandom) -> Problem {
    var accumulator = [Double](repeating: 0, count: columns * columns)
    for _ in 0..<2 * columns {
      let token = random.normals(columns)
      for i in 0..<columns {
        for j in 0..<columns { accumulator[i * columns + j] += Double(token[i]) * Double(token[j]) }
      }
    }
    var weights: [Float] = []
    for row in 0..<rows { weights += random.normals(columns).map { $0 * Float(1 + row % 4) } }
    let kept = (0..<rows).map { _ in (0..<columns).map { $0 < columns / 2 }.shuffled(using: &random) }
    return Problem(
      rows: rows, columns: columns, weights: weights, gram: accumulator.map(Float.init), kept: kept, floor: 0)
  }

  private func refine(_ problem: Problem, _ instructions: Device.Instructions = .avx512) throws -> (
    kept: [[Bool]], outcome: MatrixBudgetOutcome
  ) {
    let columns = problem.columns
    let weight = try write(problem.weights, problem.rows, columns)
    var mask = problem.mask()
    let outcome = refineAcrossRows(
      weight, gram: GramMatrix(Matrix(rows: columns, columns: columns, problem.gram)), mask: &mask,
      options: SwapOptions(budget: .matrix(floor: problem.floor)),
      on: Device(threads: 2, instructions: instructions)
    ) { _, _ in }
    return ((0..<problem.rows).map { row in (0..<columns).map { mask[row, $0] } }, outcome)
  }

  private func write(_ values: [Float], _ rows: Int, _ columns: Int) throws -> LinearWeight {
    let path = folder.path + "/w.safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("w", .f32, [rows, columns])])
    try writer.append(values)
    try writer.finish()
    return try LinearWeight(SafetensorsFile(path: path).tensor("w"))
  }
}
