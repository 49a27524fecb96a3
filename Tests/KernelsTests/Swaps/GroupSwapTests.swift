import CKernels
import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// Swaps and moves within small groups, against searches in f64 that compute the loss of every mask from its definition.
@Suite(.serialized) struct GroupSwapTests {
  struct Case: Sendable, CustomTestStringConvertible {
    let keep: Int
    let of: Int
    let moves: SwapOptions.Moves
    var testDescription: String { "\(keep):\(of) \(moves)" }
  }

  /// Every shape of the fast copies, and others that take the general way: odd sizes, one kept, one pruned, none of either.
  static let shapes = [
    (1, 2), (2, 4), (1, 4), (3, 4), (4, 8), (1, 8), (2, 8), (5, 8), (1, 3), (2, 5), (3, 5), (3, 6), (4, 7),
    (6, 9),
    (5, 12), (2, 16), (8, 16), (31, 32), (12, 32), (1, 1), (0, 4), (4, 4),
  ]
  static let cases = shapes.flatMap { keep, of in
    SwapOptions.Moves.allCases.compactMap { moves in
      moves == .group && patterns(keep, of).count > 1000 ? nil : Case(keep: keep, of: of, moves: moves)
    }
  }

  struct Problem {
    var of: Int
    var columns: Int
    var weights: [Float]
    var gram: [Float]
    var kept: [UInt8]
  }

  /// Masks of a group of `of` that keep `keep`, in ascending order; nothing where there are too many to look at.
  static func patterns(_ keep: Int, _ of: Int) -> [UInt32] {
    guard of <= 16 || min(keep, of - keep) < 3 else { return [UInt32](repeating: 0, count: 1001) }
    if min(keep, of - keep) < 3, of > 16 {
      let all = UInt32((UInt64(1) << of) - 1)
      let few = (0..<of).map { UInt32(1) << $0 }
      let chosen: [UInt32] =
        switch min(keep, of - keep) {
        case 0: [0]
        case 1: few
        default: few.indices.flatMap { i in few[(i + 1)...].map { few[i] | $0 } }
        }
      return chosen.map { keep <= of - keep ? $0 : all & ~$0 }.sorted()
    }
    return (0..<UInt32(1) << of).filter { $0.nonzeroBitCount == keep }
  }

  /// Small integers are exact in f32, and full of ties.
  static func integers(_ shape: Case, _ random: inout SeededRandom, columns: Int? = nil) -> Problem {
    // Most problems are small; some fill more than one vector of groups.
    let most = Int.random(in: 0..<4, using: &random) == 0 ? 90 : 30
    let columns = columns ?? shape.of * Int.random(in: 1...max(2, most / shape.of), using: &random)
    let tokens = Int.random(in: 1...20, using: &random)
    let loud = Int.random(in: 0..<7, using: &random)
    let inputs = (0..<tokens).map { _ in
      (0..<columns).map { Float(Int.random(in: -2...2, using: &random) * ($0 % 7 == loud ? 4 : 1)) }
    }
    return Problem(
      of: shape.of, columns: columns,
      weights: (0..<columns).map { _ in Float(Int.random(in: -3...3, using: &random)) },
      gram: gram(inputs, columns), kept: start(shape, columns, &random))
  }

  /// Correlated inputs, sometimes fewer than columns, with zero or equal columns.
  static func reals(_ shape: Case, _ random: inout SeededRandom) -> Problem {
    let columns = shape.of * Int.random(in: 1...max(2, 40 / shape.of), using: &random)
    var inputs = (0..<Int.random(in: 1...60, using: &random)).map { _ in random.normals(columns) }
    let (from, to) = (
      Int.random(in: 0..<columns, using: &random), Int.random(in: 0..<columns, using: &random)
    )
    for token in inputs.indices {
      let common = random.normal()
      for column in 0..<columns { inputs[token][column] += 0.7 * common }
      if columns % 3 == 0 { inputs[token][to] = inputs[token][from] }
      if columns % 3 == 1 { inputs[token][to] = 0 }
    }
    return Problem(
      of: shape.of, columns: columns, weights: random.normals(columns), gram: gram(inputs, columns),
      kept: start(shape, columns, &random))
  }

  static func start(_ shape: Case, _ columns: Int, _ random: inout SeededRandom) -> [UInt8] {
    (0..<columns / shape.of).flatMap { _ in
      (0..<shape.of).map { $0 < shape.keep ? 1 : 0 }.shuffled(using: &random)
    }
  }

  static func gram(_ inputs: [[Float]], _ columns: Int) -> [Float] {
    var gram = [Double](repeating: 0, count: columns * columns)
    for row in inputs {
      for i in 0..<columns where row[i] != 0 {
        for j in 0..<columns { gram[i * columns + j] += Double(row[i]) * Double(row[j]) }
      }
    }
    return gram.map(Float.init)
  }

  /// A row of one problem in f64: the change of every move from its definition.
  struct Row {
    let w: [Double]
    let gram: [Double]
    let of: Int
    var kept: [UInt8]
    var c: [Double]
    var loss: Double

    init(_ problem: Problem, c: [Float]? = nil) {
      let n = problem.columns
      w = problem.weights.map(Double.init)
      gram = problem.gram.map(Double.init)
      of = problem.of
      kept = problem.kept
      self.c = [Double](repeating: 0, count: n)
      loss = 0
      for i in 0..<n {
        for j in 0..<n where kept[j] == 0 { self.c[i] += gram[i * n + j] * w[j] }
      }
      if let c { self.c = c.map(Double.init) }
      for i in 0..<n where kept[i] == 0 { loss += w[i] * self.c[i] }
    }

    /// 2 d.c + d^T G d for the weights that would be flipped.
    func change(_ flipped: [Int]) -> Double {
      let n = w.count
      let d = flipped.map { kept[$0] == 1 ? w[$0] : -w[$0] }
      var change = 0.0
      for i in flipped.indices {
        change += 2 * d[i] * c[flipped[i]]
        for j in flipped.indices { change += d[i] * d[j] * gram[flipped[i] * n + flipped[j]] }
      }
      return change
    }

    mutating func flip(_ flipped: [Int], _ change: Double) {
      let n = w.count
      for i in flipped {
        let d = kept[i] == 1 ? w[i] : -w[i]
        for j in 0..<n { c[j] += d * gram[i * n + j] }
        kept[i] ^= 1
      }
      loss += change
    }

    /// All moves, in the order in which equals are taken.
    func moves(_ shape: Case, _ patterns: [UInt32]) -> [[Int]] {
      var moves: [[Int]] = []
      if shape.moves == .single {
        for u in w.indices where kept[u] == 1 {
          let start = u / of * of
          for p in start..<start + of where kept[p] == 0 { moves.append([u, p]) }
        }
        return moves
      }
      for start in stride(from: 0, to: w.count, by: of) {
        for pattern in patterns {
          let flipped = (start..<start + of).filter { UInt8(pattern >> ($0 - start) & 1) != kept[$0] }
          if !flipped.isEmpty { moves.append(flipped) }
        }
      }
      return moves
    }

    func best(_ shape: Case, _ patterns: [UInt32]) -> (flipped: [Int], change: Double)? {
      var best: (flipped: [Int], change: Double)?
      for move in moves(shape, patterns) {
        let change = change(move)
        if change < best?.change ?? .infinity { best = (move, change) }
      }
      return best.flatMap { $0.change < -1e-9 * abs(loss) ? $0 : nil }
    }
  }

  private func gram(_ problem: Problem) -> GramMatrix {
    GramMatrix(Matrix(rows: problem.columns, columns: problem.columns, problem.gram))
  }

  private func correlations(_ problem: Problem) -> [Float] { Row(problem).c.map(Float.init) }

  /// Refines rows with these weights, correlations and masks.
  private func refine(
    _ gram: GramMatrix, _ shape: Case, weights: [Float], correlations: [Float], kept: [UInt8],
    limit: Int? = nil,
    heldOut: GramMatrix? = nil, heldOutCorrelations: [Float] = [], on device: Device = Device(threads: 2)
  ) -> (kept: [UInt8], outcomes: [espalier_swap_outcome]) {
    let columns = gram.columns
    let rows = kept.count / columns
    var bytes = Buffer<UInt8>(count: kept.count)
    for index in kept.indices { bytes[index] = kept[index] }
    var block = RowBlock(
      rows: 0..<rows, weights: Matrix(rows: rows, columns: columns, weights), kept: bytes)
    let search = MoveSearch(gram, .groups(keep: shape.keep, of: shape.of), moves: shape.moves, on: device)
    let outcomes = search.refine(
      &block, rows: 0..<rows, correlations: Matrix(rows: rows, columns: columns, correlations),
      heldOut: heldOut,
      heldOutCorrelations: Matrix(
        rows: heldOutCorrelations.count / columns, columns: columns, heldOutCorrelations),
      starts: Buffer(count: rows), limit: limit, on: device)
    return (kept.indices.map { block.kept[$0] }, outcomes)
  }

  /// Refines `count` copies of the row at a time.
  private func refine(
    _ problem: Problem, _ shape: Case, limit: Int? = nil, rows count: Int = 1,
    _ instructions: Device.Instructions = .avx512
  ) -> (kept: [UInt8], outcome: espalier_swap_outcome) {
    let c = correlations(problem)
    let (kept, outcomes) = refine(
      gram(problem), shape, weights: (0..<count).flatMap { _ in problem.weights },
      correlations: (0..<count).flatMap { _ in c }, kept: (0..<count).flatMap { _ in problem.kept },
      limit: limit,
      on: Device(threads: 2, instructions: instructions))
    #expect(outcomes.allSatisfy { $0.after == outcomes[0].after && $0.moves == outcomes[0].moves })
    let first = Array(kept[..<problem.columns])
    #expect(kept == (0..<count).flatMap { _ in first })
    return (first, outcomes[0])
  }

  @Test(arguments: cases)
  func theSequenceIsThatOfAFullSearch(shape: Case) {
    var random = SeededRandom(seed: 77)
    let patterns = Self.patterns(shape.keep, shape.of)
    var moves = 0
    let trials = shape.of > 8 ? 8 : 30
    for trial in 0..<trials {
      let problem = Self.integers(shape, &random)
      var expected = Row(problem)
      let before = expected.loss
      var count = 0
      while let move = expected.best(shape, patterns) {
        expected.flip(move.flipped, move.change)
        count += 1
      }
      for instructions in Device.Instructions.allCases {
        let (kept, outcome) = refine(problem, shape, rows: trial % 3 + 1, instructions)
        #expect(kept == expected.kept && outcome.moves == count, "trial \(trial), \(instructions)")
        #expect(outcome.before == before && outcome.after == expected.loss)
      }
      // The whole sequence, and not only its end.
      if count > 1 {
        let limit = Int.random(in: 1..<count, using: &random)
        var early = Row(problem)
        for _ in 0..<limit {
          guard let move = early.best(shape, patterns) else { break }
          early.flip(move.flipped, move.change)
        }
        let (kept, outcome) = refine(problem, shape, limit: limit)
        #expect(kept == early.kept && outcome.moves == limit && outcome.limited == 1)
      }
      moves += count
    }
    let canMove = shape.keep > 0 && shape.keep < shape.of
    #expect(canMove ? moves > 4 : moves == 0)
  }

  @Test(arguments: cases)
  func realValuesEndWhereNoMoveHelps(shape: Case) {
    var random = SeededRandom(seed: 3)
    let patterns = Self.patterns(shape.keep, shape.of)
    for _ in 0..<(shape.of > 8 ? 8 : 60) {
      let problem = Self.reals(shape, &random)
      let (kept, outcome) = refine(problem, shape)
      var end = problem
      end.kept = kept
      let row = Row(end)
      let before = Row(problem).loss
      #expect(abs(outcome.before - before) <= 1e-5 * before + 1e-9)
      #expect(abs(outcome.after - row.loss) <= 1e-5 * before)
      let left = row.moves(shape, patterns).map { row.change($0) }.min() ?? 0
      #expect(left >= -1e-5 * before, "a move still gives \(left) of \(row.loss)")
      #expect(
        stride(from: 0, to: problem.columns, by: shape.of).allSatisfy { start in
          kept[start..<start + shape.of].count { $0 == 1 } == shape.keep
        })
      if shape.moves == .group {
        var swapped = end
        swapped.kept = kept
        let single = Case(keep: shape.keep, of: shape.of, moves: .single)
        #expect(Row(swapped).moves(single, []).allSatisfy { row.change($0) >= -1e-5 * before })
      }
    }
  }

  /// Where no swap helps, two at once in the same group may.
  @Test(arguments: [(2, 4), (4, 8)])
  func wholeGroupsLeaveOptimaOfSwaps(keep: Int, of: Int) {
    var random = SeededRandom(seed: 9)
    let single = Case(keep: keep, of: of, moves: .single)
    let whole = Case(keep: keep, of: of, moves: .group)
    var left = 0
    for _ in 0..<150 {
      var problem = Self.reals(single, &random)
      // Inputs of a group have much in common.
      let inputs = (0..<20).map { _ in
        (0..<problem.columns / of).flatMap { _ in
          let common = 2 * random.normal()
          return (0..<of).map { _ in common + random.normal() }
        }
      }
      problem.gram = Self.gram(inputs, problem.columns)
      let (kept, swapped) = refine(problem, single)
      problem.kept = kept
      let (_, outcome) = refine(problem, whole)
      #expect(outcome.after <= outcome.before && outcome.before <= swapped.after * (1 + 1e-5) + 1e-6)
      left += outcome.moves > 0 ? 1 : 0
    }
    #expect(left > 10)
  }

  /// A row with weights of every size: bounds of f32 are wide there, and what decides must still be f64.
  @Test(arguments: [
    Case(keep: 2, of: 4, moves: .single), Case(keep: 2, of: 4, moves: .group),
    Case(keep: 3, of: 8, moves: .group),
  ])
  func heavyTailsTakeTheSameWay(shape: Case) {
    var random = SeededRandom(seed: 12)
    let patterns = Self.patterns(shape.keep, shape.of)
    for _ in 0..<40 {
      var problem = Self.reals(shape, &random)
      for j in 0..<problem.columns {
        problem.weights[j] *= Float(1 << Int.random(in: 0...12, using: &random))
      }
      let c = correlations(problem)
      var expected = Row(problem, c: c)
      var moves = 0
      while let move = expected.best(shape, patterns) {
        expected.flip(move.flipped, move.change)
        moves += 1
      }
      let (kept, outcome) = refine(problem, shape)
      #expect(kept == expected.kept && outcome.moves == moves)
    }
  }

  @Test(arguments: [
    Case(keep: 2, of: 4, moves: .single), Case(keep: 2, of: 4, moves: .group),
    Case(keep: 4, of: 8, moves: .group),
  ])
  func aRowStopsWhereItsHeldOutLossNoLongerFalls(shape: Case) {
    var random = SeededRandom(seed: 41)
    let patterns = Self.patterns(shape.keep, shape.of)
    var (stopped, early) = (0, 0)
    for _ in 0..<40 {
      let problem = Self.integers(shape, &random, columns: 96)
      var other = problem
      other.gram = Self.gram(
        (0..<9).map { _ in (0..<problem.columns).map { _ in Float(Int.random(in: -2...2, using: &random)) } },
        problem.columns)
      var own = Row(problem)
      var held = Row(other)
      let before = held.loss
      var least = (loss: held.loss, own: own.loss, kept: held.kept, moves: 0)
      var moves = 0
      var expectedStop = false
      while !expectedStop, let move = own.best(shape, patterns) {
        held.flip(move.flipped, held.change(move.flipped))
        own.flip(move.flipped, move.change)
        moves += 1
        if held.loss < least.loss { least = (held.loss, own.loss, held.kept, moves) }
        expectedStop = moves - least.moves >= 10
      }
      let (kept, outcomes) = refine(
        gram(problem), shape, weights: problem.weights, correlations: correlations(problem),
        kept: problem.kept,
        heldOut: gram(other), heldOutCorrelations: correlations(other))
      let outcome = outcomes[0]
      #expect(kept == least.kept && outcome.moves == least.moves)
      #expect(
        outcome.held_before == before && outcome.held_after == least.loss && outcome.after == least.own)
      #expect((outcome.stopped == 1) == expectedStop)
      stopped += expectedStop ? 1 : 0
      early += least.moves < moves ? 1 : 0
    }
    #expect(stopped > 5 && early > stopped)
  }

  @Test func aFactoredGramTakesTheSameWay() {
    var random = SeededRandom(seed: 6)
    for shape in Self.cases where shape.of > 1 && shape.of < 9 && shape.keep > 0 && shape.keep < shape.of {
      for _ in 0..<20 {
        var problem = Self.integers(shape, &random)
        let columns = problem.columns
        let rank = Int.random(in: 1...9, using: &random)
        let factor = (0..<rank).map { _ in
          (0..<columns).map { _ in Float(Int.random(in: -2...2, using: &random)) }
        }
        let rest = (0..<columns).map { _ in Float(Int.random(in: 0...2, using: &random)) }
        problem.gram = Self.gram(factor, columns)
        for j in 0..<columns { problem.gram[j * columns + j] += rest[j] }
        let (kept, outcome) = refine(problem, shape)
        let (own, others) = refine(
          GramMatrix(factor: Matrix(rows: rank, columns: columns, factor.flatMap { $0 }), rest: rest), shape,
          weights: problem.weights, correlations: correlations(problem), kept: problem.kept)
        let other = others[0]
        #expect(own == kept && other.moves == outcome.moves && other.after == outcome.after)
      }
    }
  }

  @Test func anyNumberOfThreadsGivesTheSameMasks() {
    var random = SeededRandom(seed: 5)
    let shape = Case(keep: 2, of: 4, moves: .group)
    let (rows, columns) = (37, 100)
    let gram = GramMatrix(
      Matrix(
        rows: columns, columns: columns, Self.gram((0..<150).map { _ in random.normals(columns) }, columns)))
    let weights = random.matrix(rows, columns)
    let start = (0..<rows).flatMap { _ in Self.start(shape, columns, &random) }
    var pruned = Matrix(rows: rows, columns: columns, weights.array())
    for index in 0..<rows * columns where start[index] == 1 { pruned.elements[index] = 0 }
    var correlations = Matrix(rows: rows, columns: columns)
    gram.multiply(pruned, rows: rows, into: &correlations, on: device)
    let masks = [1, 2, 5].map { threads in
      refine(
        gram, shape, weights: weights.array(), correlations: correlations.array(), kept: start,
        on: Device(threads: threads)
      ).kept
    }
    #expect(masks[0] == masks[1] && masks[0] == masks[2] && masks[0] != start)
  }
}
