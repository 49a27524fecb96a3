import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// What Frank-Wolfe, certificates, fits, ADMM and SparseGPT take is what they plan to take. Each measures in a process of its own.
@Suite struct FittingMemoryTests {
  @Test func frankWolfeOfRows() async {
    await #expect(processExitsWith: .success) {
      for shape in [(300, 512), (40, 1030), (1, 700)] {
        for step in FrankWolfeOptions.Step.allCases {
          for (alpha, threads) in [(0, 2), (0.5, 1)] {
            try relax(shape, .rows(sparsity: 0.5), step, alpha: alpha, threads: threads)
          }
        }
      }
    }
  }

  @Test func frankWolfeOfGroupsAndFromFactors() async {
    await #expect(processExitsWith: .success) {
      for step in FrankWolfeOptions.Step.allCases {
        try relax((270, 512), .groups(keep: 2, of: 4), step, alpha: 0, threads: 2)
        try relax((200, 512), .rows(sparsity: 0.6), step, alpha: 0.9, rank: 300, threads: 2)
      }
    }
  }

  @Test func frankWolfeOverMatrices() async {
    await #expect(processExitsWith: .success) {
      for step in FrankWolfeOptions.Step.allCases {
        for (alpha, threads) in [(0, 2), (0.5, 1)] {
          try relax((600, 256), .matrix(sparsity: 0.5), step, alpha: alpha, threads: threads)
          try relax((3, 520), .matrix(sparsity: 0.5), step, alpha: alpha, threads: threads)
        }
      }
    }
  }

  @Test func lossesInF64() async {
    await #expect(processExitsWith: .success) {
      for (rows, columns) in [(300, 1100), (33, 512), (1, 60)] {
        let problem = try MemoryProblem(rows: rows, columns: columns)
        let mask = problem.mask(.rows(sparsity: 0.5))
        for threads in [1, 2] {
          expect(
            [1, threads].map { Certificate.lossesWorkingSet(rows: rows, columns: columns, threads: $0) }
          ) {
            _ = rowLosses(problem.weight, gram: problem.gram, mask: mask, on: Device(threads: threads))
          }
        }
      }
    }
  }

  /// Narrow rows have a factor of their own, wide ones take conjugate gradients.
  @Test func fits() async {
    await #expect(processExitsWith: .success) {
      for (rows, columns, rank) in [(300, 512, nil), (20, 1200, nil), (60, 300, 40)] as [(Int, Int, Int?)] {
        let problem = try MemoryProblem(rows: rows, columns: columns, rank: rank)
        for (sparsity, threads) in [(0.5, 2), (0.9, 1), (0.1, 2), (0, 1), (1, 2)] {
          let pattern = SparsityPattern.rows(sparsity: sparsity)
          let mask = problem.mask(pattern)
          let device = Device(threads: threads)
          try expect(
            [1, threads].map {
              ReconstructOptions.workingSet(
                rows: rows, columns: columns, pattern: pattern, rank: rank, threads: $0,
                writing: problem.writing(rank, $0))
            }
          ) {
            var row = 0
            _ = try reconstruct(problem.weight, gram: problem.gram, mask: mask, on: device) {
              problem.write($0, &row, device)
            }
          }
        }
      }
    }
  }

  @Test func swapsForTheLossAfterTheFit() async {
    await #expect(processExitsWith: .success) {
      for (rows, columns, rank) in [(300, 512, nil), (20, 1200, nil), (60, 300, 40), (5, 96, nil)]
        as [(Int, Int, Int?)]
      {
        let problem = try MemoryProblem(rows: rows, columns: columns, rank: rank)
        for (pattern, threads) in [
          (.rows(sparsity: 0.5), 2), (.rows(sparsity: 0.9), 1), (.rows(sparsity: 0.1), 2),
          (.groups(keep: 2, of: 4), 2),
        ] as [(SparsityPattern, Int)] {
          let mask = problem.mask(pattern)
          let device = Device(threads: threads)
          try expect(
            [1, threads].map {
              RefitSwapOptions.workingSet(
                rows: rows, columns: columns, pattern: pattern, rank: rank, threads: $0,
                writing: problem.writing(rank, $0))
            }
          ) {
            var row = 0
            _ = try refineByRefitSwaps(problem.weight, gram: problem.gram, mask: mask, on: device) {
              problem.write($0, &row, device)
            }
          }
        }
      }
    }
  }

  @Test func masksAndWeightsTogether() async {
    await #expect(processExitsWith: .success) {
      for (rows, columns, rank) in [(300, 256, nil), (30, 400, 40)] as [(Int, Int, Int?)] {
        let problem = try MemoryProblem(rows: rows, columns: columns, rank: rank)
        for pattern in [SparsityPattern.rows(sparsity: 0.5), .groups(keep: 2, of: 4), .matrix(sparsity: 0.5)]
        {
          for threads in [1, 2] {
            let device = Device(threads: threads)
            try expect(
              [1, threads].map {
                SparseGPTOptions().workingSet(
                  rows: rows, columns: columns, pattern: pattern, threads: $0,
                  writing: problem.writing(rank, $0))
              }
            ) {
              var row = 0
              _ = try pruneBySparseGPT(problem.weight, gram: problem.gram, pattern: pattern, on: device) {
                problem.write($0, &row, device)
              }
            }
            if case .matrix = pattern { continue }
            try expect(
              [1, threads].map {
                ADMMOptions.workingSet(
                  rows: rows, columns: columns, pattern: pattern, rank: rank, threads: $0,
                  writing: problem.writing(rank, $0)
                )
              }
            ) {
              var row = 0
              _ = try pruneByADMM(problem.weight, gram: problem.gram, pattern: pattern, on: device) {
                problem.write($0, &row, device)
              }
            }
          }
        }
      }
    }
  }

  /// A pattern that is not known yet is planned with at least what any takes.
  @Test(arguments: [(64, 960), (300, 1500), (300, 4096)])
  func anUnknownPatternTakesTheMost(rows: Int, columns: Int) {
    func planned(_ pattern: SparsityPattern?) -> [Int] {
      [
        ReconstructOptions.workingSet(
          rows: rows, columns: columns, pattern: pattern, rank: nil, threads: 2, writing: { _ in 0 }),
        ADMMOptions.workingSet(
          rows: rows, columns: columns, pattern: pattern, rank: nil, threads: 2, writing: { _ in 0 }),
        SparseGPTOptions().workingSet(
          rows: rows, columns: columns, pattern: pattern, threads: 2, writing: { $0 }),
        RefitSwapOptions.workingSet(
          rows: rows, columns: columns, pattern: pattern, rank: nil, threads: 2, writing: { _ in 0 }),
        FrankWolfeOptions().workingSet(
          rows: rows, columns: columns, pattern: pattern, rank: nil, threads: 2),
      ]
    }
    let unknown = planned(nil)
    let known =
      stride(from: 0, through: 1, by: 0.01).map { SparsityPattern.rows(sparsity: $0) }
      + [.groups(keep: 2, of: 4), .groups(keep: 1, of: 4), .matrix(sparsity: 0.5)]
    for pattern in known {
      #expect(zip(unknown, planned(pattern)).allSatisfy { $0 >= $1 }, "\(pattern)")
    }
    // Rows as wide as a factor of their own may be are among them.
    let direct = ReconstructOptions.workingSet(
      rows: rows, columns: 4096, pattern: .rows(sparsity: 0.75), rank: nil, threads: 2, writing: { _ in 0 })
    let iterated = ReconstructOptions.workingSet(
      rows: rows, columns: 4096, pattern: .rows(sparsity: 0), rank: nil, threads: 2, writing: { _ in 0 })
    #expect(direct >= iterated)
  }
}

private func relax(
  _ shape: (rows: Int, columns: Int), _ pattern: SparsityPattern, _ step: FrankWolfeOptions.Step,
  alpha: Double,
  rank: Int? = nil, threads: Int
) throws {
  let problem = try MemoryProblem(rows: shape.rows, columns: shape.columns, rank: rank)
  let options = FrankWolfeOptions(alpha: alpha, iterations: 2, step: step, refreshInterval: 1)
  var mask = problem.mask(pattern)
  try expect(
    [1, threads].map {
      options.workingSet(
        rows: shape.rows, columns: shape.columns, pattern: pattern, rank: rank, threads: $0)
    }
  ) {
    _ = try frankWolfe(
      problem.weight, gram: problem.gram, mask: &mask, options: options, on: Device(threads: threads))
  }
}

extension MemoryProblem {
  /// What the stages do with new weights.
  fileprivate func write(_ rows: borrowing Matrix, _ row: inout Int, _ device: Device) {
    guard let rounded = RoundedWeights(rows, as: .bf16) else { return }
    _ = Loss(gram, on: device).ofUpdate(weight, rounded.values(), firstRow: row)
    row += rows.rows
  }

  /// Bytes of that.
  fileprivate func writing(_ rank: Int?, _ threads: Int) -> (Int) -> Int {
    {
      RoundedWeights.workingSet(rows: $0, columns: weight.columns, weightBytes: 2)
        + Loss.updateWorkingSet(rows: $0, columns: weight.columns, rank: rank, threads: threads)
    }
  }
}
