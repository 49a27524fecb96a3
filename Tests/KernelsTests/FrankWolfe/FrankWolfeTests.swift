import CKernels
import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierTestSupport
import Testing

/// Frank-Wolfe against the plain reference implementation (golden values by tools/make_golden.py) and against
/// dense loops in f64.
@Suite(.serialized) struct FrankWolfeTests {
  static let golden = Places.golden + "/masks.safetensors"
  static let patterns: [SparsityPattern] = [
    .rows(sparsity: 0.5), .rows(sparsity: 0.7), .groups(keep: 2, of: 4), .groups(keep: 1, of: 2),
    .groups(keep: 4, of: 8), .groups(keep: 2, of: 3), .matrix(sparsity: 0.6),
  ]
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  @Test(.enabled(if: Places.exists(golden)), arguments: ["a", "b", "c", "d"])
  func masksAndRelaxedMasksAreTheReferences(name: String) throws {
    let file = try SafetensorsFile(path: Self.golden)
    let weights = try file.tensor("\(name).W")
    let (rows, columns) = (weights.shape[0], weights.shape[1])
    let gram = try file.tensor("\(name).G").doubles()
    let pattern: SparsityPattern =
      switch name {
      case "a": .rows(sparsity: 0.5)
      case "b": .rows(sparsity: 0.6)
      case "c": .groups(keep: 2, of: 4)
      default: .rows(sparsity: 0.75)
      }
    let problem = try FrankWolfeProblem(
      weights: weights.doubles().map(Float.init), gram: gram.map(Float.init), rows: rows, columns: columns,
      folder)
    let start = problem.start(pattern)
    var mask = start
    let outcome = try frankWolfe(
      problem.weight, gram: problem.matrix, mask: &mask,
      options: FrankWolfeOptions(alpha: 0.5, iterations: 200, keepsRelaxed: true), on: device)
    let bytes = (0..<rows).flatMap { row in (0..<columns).map { mask[row, $0] ? UInt8(1) : 0 } }
    #expect(try bytes == file.tensor("\(name).fw.mask", dtype: .u8).withBytes { Array($0) })
    let relaxed = try file.tensor("\(name).fw.x").doubles()
    var compared = 0
    for row in 0..<rows {
      // Two scores that are equal to the rounding of f32 may be chosen either way.
      guard problem.frankWolfe(row, from: start, alpha: 0.5, iterations: 200).margin > 1e-6 else { continue }
      compared += 1
      for index in row * columns..<(row + 1) * columns {
        #expect(abs(Double(outcome.relaxed[index]) - relaxed[index]) < 1e-4)
      }
    }
    #expect(compared * 3 >= rows * 2)
    let objective = try file.tensor("\(name).fw.relaxed").doubles().reduce(0, +)
    #expect(abs(outcome.relaxedLoss / objective - 1) < 1e-4)
    let loss = try file.tensor("\(name).fw.loss").doubles().reduce(0, +)
    #expect(abs(outcome.lossAfter / loss - 1) < 1e-5)
  }

  /// Products kept up to date from changes, made anew now and then, or always: all are the dense loop.
  @Test(arguments: patterns.filter { $0 != .matrix(sparsity: 0.6) })
  func stepsAreThoseOfADenseLoopInF64(pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: 31)
    var compared = 0
    for (columns, alpha) in [(24, 0.0), (72, 0.5), (264, 0.9)] {
      let problem = try FrankWolfeProblem(rows: 2, columns: columns, tokens: columns, &random, folder)
      let start = problem.start(pattern)
      let expected = (0..<2).map { problem.frankWolfe($0, from: start, alpha: alpha, iterations: 8) }
      for refreshInterval in [1, 3, 1000] {
        var mask = start
        let outcome = try frankWolfe(
          problem.weight, gram: problem.matrix, mask: &mask,
          options: FrankWolfeOptions(
            alpha: alpha, iterations: 8, refreshInterval: refreshInterval, keepsRelaxed: true), on: device)
        // Two scores that are equal to the rounding of f32 may be chosen either way.
        for row in 0..<2 where expected[row].margin > 1e-6 {
          compared += 1
          let found = (0..<columns).map { Double(outcome.relaxed[row * columns + $0]) }
          for column in 0..<columns { #expect(abs(found[column] - expected[row].x[column]) < 1e-4) }
          #expect(abs(problem.loss(row, found) / problem.loss(row, expected[row].x) - 1) < 1e-4)
        }
      }
    }
    #expect(compared >= 12)
  }

  /// The gap is that of the gradient, and the gradient that of the loss: by differences of the loss in f64.
  @Test(arguments: patterns, FrankWolfeOptions.Step.allCases)
  func theGapIsThatOfTheGradientByDifferences(pattern: SparsityPattern, step: FrankWolfeOptions.Step) throws {
    var random = SeededRandom(seed: 8)
    let problem = try FrankWolfeProblem(rows: 6, columns: 24, tokens: 40, &random, folder)
    for alpha in [0, 0.4] {
      let start = problem.start(pattern)
      var mask = start
      let outcome = try frankWolfe(
        problem.weight, gram: problem.matrix, mask: &mask,
        options: FrankWolfeOptions(alpha: alpha, iterations: 3, step: step, keepsRelaxed: true), on: device)
      var (loss, gap) = (0.0, 0.0)
      var all: [Double] = []
      var budget = 0
      for row in 0..<problem.rows {
        let x = (0..<24).map { Double(outcome.relaxed[row * 24 + $0]) }
        loss += problem.loss(row, x)
        let frozen = problem.frozen(start, row, share: alpha)
        for index in 0..<24 where frozen[index] { #expect(x[index] == 1) }
        let scores = (0..<24).map { index in
          var (more, less) = (x, x)
          more[index] += 0.5
          less[index] -= 0.5
          // The loss is quadratic: the difference is exact.
          return (problem.loss(row, less) - problem.loss(row, more)) / 2
        }
        let keep = pattern.kept(ofColumns: pattern.span(ofColumns: 24))
        let vertex = problem.vertex(
          scores, frozen: frozen, keep: keep, span: pattern.span(ofColumns: 24), isFull: step == .pairwise
        ).vertex
        let inside = (0..<24).reduce(0.0) { frozen[$1] ? $0 : $0 + scores[$1] * x[$1] }
        if case .matrix = pattern {
          all += (0..<24).filter { !frozen[$0] }.map { scores[$0] }
          budget += start.keptCount(row: row) - frozen.count { $0 }
          gap -= 2 * inside
        } else {
          gap += 2 * ((0..<24).reduce(0.0) { frozen[$1] ? $0 : $0 + scores[$1] * vertex[$1] } - inside)
        }
      }
      gap += 2 * all.sorted(by: >).prefix(budget).filter { $0 > 0 }.reduce(0, +)
      #expect(abs(outcome.relaxedLoss - loss) <= 1e-5 * outcome.lossBefore)
      // With a price for all rows the gap is that of the price, which is not below the best one's.
      if pattern == .matrix(sparsity: 0.6) && step == .pairwise {
        #expect(outcome.gap >= gap - 1e-5 * outcome.lossBefore)
      } else {
        #expect(abs(outcome.gap - gap) <= 1e-5 * outcome.lossBefore, "\(outcome.gap) is not \(gap)")
      }
    }
  }

  @Test(arguments: patterns, FrankWolfeOptions.Step.allCases)
  func countsAreExactAndFrozenEntriesStay(pattern: SparsityPattern, step: FrankWolfeOptions.Step) throws {
    var random = SeededRandom(seed: 4)
    for (columns, tokens) in [(24, 60), (72, 30)] {
      let problem = try FrankWolfeProblem(rows: 9, columns: columns, tokens: tokens, &random, folder)
      let start = problem.start(pattern)
      for alpha in [0, 0.3, 0.9, 1] {
        var mask = start
        let outcome = try frankWolfe(
          problem.weight, gram: problem.matrix, mask: &mask,
          options: FrankWolfeOptions(alpha: alpha, iterations: 20, step: step), on: device)
        #expect(mask.firstRowOffPattern() == nil && mask.keptCount == start.keptCount)
        for row in 0..<problem.rows {
          let frozen = problem.frozen(start, row, share: alpha)
          for column in 0..<columns where frozen[column] { #expect(mask[row, column]) }
        }
        let before = (0..<9).reduce(0.0) { $0 + problem.loss($1, problem.kept(start, $1)) }
        let after = (0..<9).reduce(0.0) { $0 + problem.loss($1, problem.kept(mask, $1)) }
        #expect(abs(outcome.lossBefore / before - 1) < 1e-5 && abs(outcome.lossAfter / after - 1) < 1e-5)
        if alpha == 1 { #expect(mask == start) }
      }
    }
  }

  @Test(arguments: [
    SparsityPattern.rows(sparsity: 0), .rows(sparsity: 1), .groups(keep: 4, of: 4), .matrix(sparsity: 1),
  ])
  func aPatternThatLeavesNoChoiceStaysAsItIs(pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: 6)
    let problem = try FrankWolfeProblem(rows: 3, columns: 20, tokens: 30, &random, folder)
    for step in FrankWolfeOptions.Step.allCases {
      for alpha in [0, 0.5] {
        var mask = problem.start(pattern)
        let start = mask
        let outcome = try frankWolfe(
          problem.weight, gram: problem.matrix, mask: &mask,
          options: FrankWolfeOptions(alpha: alpha, iterations: 5, step: step), on: device)
        #expect(mask == start)
        if let certificate = outcome.certificate {
          #expect(abs(certificate.lowerBound - outcome.lossAfter) <= 1e-9 * outcome.lossAfter)
        }
      }
    }
  }

  @Test(arguments: [SparsityPattern.rows(sparsity: 0.5), .groups(keep: 2, of: 4), .matrix(sparsity: 0.5)])
  func anyNumberOfThreadsGivesTheSameBits(pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: 12)
    // More than one block of rows.
    let problem = try FrankWolfeProblem(rows: 270, columns: 16, tokens: 30, &random, folder)
    for step in FrankWolfeOptions.Step.allCases {
      let start = problem.start(pattern)
      var results: [(Mask, [Float], [Double])] = []
      for threads in [1, 2, 5] {
        var mask = problem.start(pattern)
        let outcome = try frankWolfe(
          problem.weight, gram: problem.matrix, mask: &mask,
          options: FrankWolfeOptions(alpha: 0, iterations: 6, step: step, keepsRelaxed: true),
          on: Device(threads: threads))
        results.append((mask, outcome.relaxed, outcome.certificate?.lowerBounds ?? []))
      }
      for result in results.dropFirst() { #expect(result == results[0]) }
      // Line search over a whole matrix leaves the start slowly.
      let hasMoved = results[0].0 != start
      #expect(hasMoved || step == .lineSearch)
    }
  }

  @Test func everyInstructionSetGivesTheSameBits() throws {
    var random = SeededRandom(seed: 15)
    let problem = try FrankWolfeProblem(rows: 12, columns: 216, tokens: 400, &random, folder)
    for pattern in Self.patterns {
      for step in FrankWolfeOptions.Step.allCases {
        var results: [(Mask, [Float])] = []
        for instructions in Device.Instructions.allCases {
          var mask = problem.start(pattern)
          let outcome = try frankWolfe(
            problem.weight, gram: problem.matrix, mask: &mask,
            options: FrankWolfeOptions(alpha: 0.5, iterations: 20, step: step, keepsRelaxed: true),
            on: Device(threads: 2, instructions: instructions))
          results.append((mask, outcome.relaxed))
        }
        for result in results.dropFirst() { #expect(result == results[0], "\(pattern), \(step)") }
      }
    }
  }

  @Test func aFactoredGramMatrixGivesTheSameMask() throws {
    var random = SeededRandom(seed: 19)
    let (rank, columns) = (30, 72)
    let factor = random.normals(rank * columns)
    let rest = random.normals(columns).map { abs($0) }
    let factored = GramMatrix(factor: Matrix(rows: rank, columns: columns, factor), rest: rest)
    var whole = [Float](repeating: 0, count: columns * columns)
    for i in 0..<columns {
      for j in 0..<columns {
        let sum = (0..<rank).reduce(0.0) {
          $0 + Double(factor[$1 * columns + i]) * Double(factor[$1 * columns + j])
        }
        whole[i * columns + j] = Float(i == j ? sum + Double(rest[i]) : sum)
      }
    }
    let problem = try FrankWolfeProblem(
      weights: random.normals(7 * columns), gram: whole, rows: 7, columns: columns, folder)
    for pattern in Self.patterns {
      for step in FrankWolfeOptions.Step.allCases {
        var (a, b) = (problem.start(pattern), problem.start(pattern))
        let options = FrankWolfeOptions(alpha: 0, iterations: 60, step: step, tolerance: 1e-4)
        let first = try frankWolfe(
          problem.weight, gram: problem.matrix, mask: &a, options: options, on: device)
        let second = try frankWolfe(problem.weight, gram: factored, mask: &b, options: options, on: device)
        // Both bounds hold for both masks.
        let (least, most) = (
          min(first.lossAfter, second.lossAfter),
          max(first.certificate?.lowerBound ?? .infinity, second.certificate?.lowerBound ?? .infinity)
        )
        #expect(most <= least * (1 + 1e-5))
        if step == .pairwise { #expect(abs(first.relaxedLoss / second.relaxedLoss - 1) < 1e-3) }
      }
    }
  }

  @Test func progressIsToldAndMayEndTheWork() throws {
    struct Ended: Error {}
    var random = SeededRandom(seed: 20)
    let problem = try FrankWolfeProblem(rows: 520, columns: 16, tokens: 30, &random, folder)
    for pattern in [SparsityPattern.rows(sparsity: 0.5), .matrix(sparsity: 0.5)] {
      for step in FrankWolfeOptions.Step.allCases {
        var mask = problem.start(pattern)
        var told: [Int] = []
        _ = try frankWolfe(
          problem.weight, gram: problem.matrix, mask: &mask,
          options: FrankWolfeOptions(alpha: 0.5, iterations: 5, step: step), on: device
        ) { done, all in
          told.append(done)
          #expect(done <= all)
        }
        #expect(told.count > 3 && told == told.sorted())
        var other = problem.start(pattern)
        #expect(throws: Ended.self) {
          _ = try frankWolfe(
            problem.weight, gram: problem.matrix, mask: &other,
            options: FrankWolfeOptions(iterations: 5, step: step), on: device
          ) { done, _ in if done > 0 { throw Ended() } }
        }
      }
    }
  }

  @Test func aRowMayKeepItsMaskWhereTheRoundedOneIsNoBetter() throws {
    var random = SeededRandom(seed: 23)
    let problem = try FrankWolfeProblem(rows: 80, columns: 32, tokens: 50, &random, folder)
    let heldOut = try FrankWolfeProblem(rows: 1, columns: 32, tokens: 50, &random, folder)
    for pattern in Self.patterns where pattern.fits(columns: 32) {
      let start = problem.start(pattern)
      for held in [nil, heldOut.matrix] {
        var (any, better) = (start, start)
        var options = FrankWolfeOptions(alpha: 0.2, iterations: 4, heldOut: held)
        let free = try frankWolfe(
          problem.weight, gram: problem.matrix, mask: &any, options: options, on: device)
        options.onlyImproves = true
        let outcome = try frankWolfe(
          problem.weight, gram: problem.matrix, mask: &better, options: options, on: device)
        #expect(free.rowsKept == 0)
        let losses = { (mask: Mask) in
          rowLosses(problem.weight, gram: held ?? problem.matrix, mask: mask, on: device)
        }
        let (before, rounded, after) = (losses(start), losses(any), losses(better))
        if case .matrix = pattern {
          #expect(after.reduce(0, +) <= before.reduce(0, +))
        } else {
          for row in 0..<80 { #expect(after[row] == min(before[row], rounded[row])) }
          #expect(outcome.rowsKept == (0..<80).count { rounded[$0] >= before[$0] })
        }
        if held != nil {
          #expect(abs((outcome.heldOutBefore ?? 0) / before.reduce(0, +) - 1) < 1e-5)
          #expect(abs((outcome.heldOutAfter ?? 0) / after.reduce(0, +) - 1) < 1e-5)
        } else {
          #expect(outcome.heldOutBefore == nil)
        }
      }
    }
  }
}
