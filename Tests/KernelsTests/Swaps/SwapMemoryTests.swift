import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// What swaps, DSnoT, warm-starts and losses take is what they plan to take. Each measures in a process of its own.
@Suite struct SwapMemoryTests {
  @Test func swapsOfRows() async {
    await #expect(processExitsWith: .success) {
      for shape in [(300, 512), (40, 1030), (1, 700)] {
        for threads in [1, 2] { try swaps(shape, .rows(sparsity: 0.5), .single, threads: threads) }
      }
    }
  }

  @Test func swapsOfGroups() async {
    await #expect(processExitsWith: .success) {
      for moves in SwapOptions.Moves.allCases {
        try swaps((270, 512), .groups(keep: 2, of: 4), moves, threads: 2)
        try swaps((20, 240), .groups(keep: 4, of: 8), moves, threads: 1)
      }
      try swaps((20, 320), .groups(keep: 16, of: 32), .single, threads: 2)
      try swaps((20, 320), .groups(keep: 20, of: 40), .single, threads: 1)
      try swaps((20, 240), .groups(keep: 6, of: 12), .group, threads: 1)
    }
  }

  @Test func swapsWithHeldOutInputsAndFromFactors() async {
    await #expect(processExitsWith: .success) {
      for (rank, holdsOut) in [(nil, true), (60, false), (60, true)] as [(Int?, Bool)] {
        try swaps((200, 512), .rows(sparsity: 0.5), .single, rank: rank, holdsOut: holdsOut, threads: 2)
        try swaps((9, 512), .groups(keep: 2, of: 4), .single, rank: rank, holdsOut: holdsOut, threads: 1)
      }
    }
  }

  @Test func budgetsOfMatrices() async {
    await #expect(processExitsWith: .success) {
      for (rows, columns, rank) in [(300, 256, nil), (2, 400, nil), (300, 128, 20)] as [(Int, Int, Int?)] {
        let problem = try MemoryProblem(rows: rows, columns: columns, rank: rank)
        let options = SwapOptions(budget: .matrix(floor: 0.5))
        for threads in [1, 2] {
          var mask = problem.mask(.rows(sparsity: 0.5))
          let pattern = mask.pattern
          expect(
            [1, threads].map {
              options.workingSet(
                rows: rows, columns: columns, pattern: pattern, rank: rank, holdsOut: false, threads: $0)
            }
          ) {
            _ = refineAcrossRows(
              problem.weight, gram: problem.gram, mask: &mask, options: options, on: Device(threads: threads)
            ) { _, _ in }
          }
        }
      }
    }
  }

  @Test func warmStartsDSnoTAndLosses() async {
    await #expect(processExitsWith: .success) {
      for (rows, columns, rank) in [(300, 1100, nil), (33, 512, nil), (300, 256, 40)] as [(Int, Int, Int?)] {
        let problem = try MemoryProblem(rows: rows, columns: columns, rank: rank)
        for threads in [1, 2] {
          let device = Device(threads: threads)
          var mask = problem.mask(.rows(sparsity: 0.5))
          expect([1, threads].map { scoringByteCount(rows: rows, columns: columns, threads: $0) }) {
            mask = mostSalient(
              problem.weight, .ria(power: 0.5), diagonal: problem.gram.diagonal, pattern: mask.pattern,
              on: device)
          }
          expect([1, threads].map { Loss.workingSet(rows: rows, columns: columns, rank: rank, threads: $0) })
          {
            _ = Loss(problem.gram, on: device).of(problem.weight, mask)
          }
          let options = DSnoTOptions()
          let planned = [1, threads].map {
            options.workingSet(rows: rows, columns: columns, pattern: nil, threads: $0)
          }
          expect(planned) {
            _ = refineByDSnoT(
              problem.weight, diagonal: problem.gram.diagonal, means: problem.gram.diagonal, tokens: 9,
              mask: &mask, options: options, on: device)
          }
        }
      }
    }
  }

  /// A pattern that is not known yet is planned with at least what any takes.
  @Test(arguments: SwapOptions.Moves.allCases)
  func anUnknownPatternTakesTheMost(moves: SwapOptions.Moves) {
    let options = SwapOptions(moves: moves)
    func planned(_ pattern: SparsityPattern?) -> Int {
      options.workingSet(rows: 64, columns: 960, pattern: pattern, rank: nil, holdsOut: false, threads: 2)
    }
    for of in [2, 3, 4, 8, 10, 12, 15, 16, 30, 32, 60] {
      for keep in 0...of where moves == .single || (patterns(keep, of) ?? 1001) <= 1000 {
        #expect(planned(nil) >= planned(.groups(keep: keep, of: of)))
      }
    }
    #expect(planned(nil) >= planned(.rows(sparsity: 0.6)))
  }

  /// `of` over `keep`; nil if that is large.
  private func patterns(_ keep: Int, _ of: Int) -> Int? {
    var count = 1
    for taken in 0..<min(keep, of - keep) {
      count = count * (of - taken) / (taken + 1)
      if count > 1000 { return nil }
    }
    return of <= 32 ? count : nil
  }
}

private func swaps(
  _ shape: (rows: Int, columns: Int), _ pattern: SparsityPattern, _ moves: SwapOptions.Moves,
  rank: Int? = nil,
  holdsOut: Bool = false, threads: Int
) throws {
  let problem = try MemoryProblem(rows: shape.rows, columns: shape.columns, rank: rank)
  let options = SwapOptions(limit: 3, moves: moves, heldOut: holdsOut ? problem.gram : nil)
  var mask = problem.mask(pattern)
  try expect(
    [1, threads].map {
      options.workingSet(
        rows: shape.rows, columns: shape.columns, pattern: pattern, rank: rank, holdsOut: holdsOut,
        threads: $0)
    }
  ) {
    _ = try refineBySwaps(
      problem.weight, gram: problem.gram, mask: &mask, options: options, on: Device(threads: threads))
  }
}
