import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierTestSupport
import Testing

@testable import EspalierStages

/// How a sparsity is spread over the matrices of a model.
@Suite(.serialized) struct AllocationTests {
  /// Blocks whose inputs differ in scale and spread, so that they are not all alike.
  private func bench() throws -> Workbench {
    var checkpoint = TinyCheckpoint()
    checkpoint.blocks = 3
    checkpoint.edit = { name, values in
      guard name.hasSuffix("proj.weight"), name.contains("layers.1.") else { return }
      for index in values.indices where index % 13 == 0 { values[index] *= 9 }
    }
    return try Workbench(checkpoint)
  }

  private func sparsities(_ output: String) throws -> [String: Double] {
    Dictionary(
      try OutputRecord(folder: output).matrices.map { matrix in
        guard case .rows(let sparsity) = matrix.pattern else { return (matrix.name, -1) }
        return (matrix.name, sparsity)
      }, uniquingKeysWith: { first, _ in first })
  }

  @Test(arguments: ["uniform", "owl", "error"])
  func theMeanIsKeptAndPropagationDoesNotMatter(method: String) throws {
    let bench = try bench()
    let stages = [
      "allocate: {method: \(method), sparsity: 0.5, range: 0.2, outlier: 3}",
      "warmStart: {sparsity: allocated}",
    ]
    let pruned = try bench.run(
      bench.recipe(stages[0], stages[1]), output: "pruned", work: "work-pruned")
    let dense = try bench.run(
      bench.recipe(stages[0], stages[1], capture: "{propagate: dense}"), output: "dense", work: "work-dense")
    let found = try sparsities(pruned)
    // The dense model is measured, whatever the next block sees later.
    #expect(try found == sparsities(dense))
    let outline = try Model(folder: bench.model).outline
    let weights = outline.matrices.map { Double($0.rows * $0.columns) }
    let total = zip(outline.matrices, weights).reduce(0.0) { $0 + (found[$1.0.tensor] ?? -1) * $1.1 }
    #expect(abs(total / weights.reduce(0, +) - 0.5) < 1e-9)
    #expect(found.values.allSatisfy { (0.3 - 1e-9...0.7 + 1e-9).contains($0) || method == "owl" })
    #expect(
      Set(found.values).count == (method == "uniform" ? 1 : method == "owl" ? 3 : Set(found.values).count))
    #expect(method == "uniform" || Set(found.values).count > 1)
    #expect(try Verification(folder: pruned, on: device).findings.isEmpty)
  }

  /// Every matrix keeps a whole number of each group, 4 of 8 on average, to half a step of a matrix.
  @Test(arguments: ["uniform", "owl", "error", "refit"], [0, 0.3])
  func groupsKeepTheMeanToAStep(method: String, range: Double) throws {
    let bench = try bench()
    let output = try bench.run(
      bench.recipe(
        "allocate: {method: \(method), sparsity: 0.5, of: 8, range: \(range), outlier: 3}",
        "warmStart: {sparsity: allocated}", "swap"))
    var (kept, weights, step) = (0.0, 0.0, 0.0)
    var found: Set<Int> = []
    for matrix in try OutputRecord(folder: output).matrices {
      guard case .groups(let keep, 8) = matrix.pattern else {
        Issue.record("\(matrix.name) has \(matrix.pattern)")
        continue
      }
      let size = Double(matrix.rows * matrix.columns)
      (kept, weights, step) = (kept + size * Double(keep) / 8, weights + size, max(step, size / 8))
      found.insert(keep)
    }
    #expect(abs(kept - weights / 2) <= step / 2 + 1e-9)
    #expect(found.isSubset(of: Set(range == 0 ? 3...5 : 2...6)) && found.contains(4))
    #expect(method == "uniform" ? found == [4] : found.count > 1, "\(found.sorted())")
    #expect(try Verification(folder: output, on: device).findings.isEmpty)
  }

  /// Blocks prune what OWL gives them, and their matrices share it.
  @Test(arguments: ["error", "refit"]) func theMatricesOfABlockShareWhatIsPrunedOfIt(within: String) throws {
    let bench = try bench()
    func allocated(_ more: String, _ name: String) throws -> [String: Double] {
      try sparsities(
        bench.run(
          bench.recipe(
            "allocate: {sparsity: 0.5, range: 0.1, outlier: 3\(more)}", "warmStart: {sparsity: allocated}"),
          output: name, work: "work-\(name)"))
    }
    let (all, own) = try (allocated("", "all"), allocated(", within: \(within)", "own"))
    for block in try Model(folder: bench.model).outline.blocks {
      let weights = block.matrices.map { Double($0.rows * $0.columns) }
      let (wanted, found) = (
        block.matrices.map { all[$0.tensor] ?? -1 }, block.matrices.map { own[$0.tensor] ?? -1 }
      )
      #expect(Set(wanted).count == 1 && Set(found).count > 1)
      #expect(found.allSatisfy { abs($0 - wanted[0]) <= 0.1 + 1e-9 }, "\(found)")
      let mean = zip(found, weights).reduce(0) { $0 + $1.0 * $1.1 } / weights.reduce(0, +)
      #expect(abs(mean - wanted[0]) < 1e-9)
    }
  }

  /// With propagate: pruned the dense model streams once, then the pruned one; a second run finds all of it again.
  ///
  /// Block 0 streams once for both if both need Gram matrices; OWL needs only their diagonals.
  @Test(arguments: [("error", 20), ("owl", 24)])
  func measurementsAreUnitsThatAreReused(method: String, factors: Int) throws {
    let bench = try bench()
    let recipe = bench.recipe(
      "allocate: {method: \(method), sparsity: 0.5}", "warmStart: {sparsity: allocated}", "swap")
    let units = try bench.computedUnits(recipe)
    #expect(units.count { $0.hasPrefix("factor/dense/") } == 12)
    #expect(units.count { $0.hasPrefix("factor/") } == factors)
    #expect(units.count { $0.hasPrefix("allocate") } == 22 && units.contains("capture/dense/1"))
    #expect(try bench.computedUnits(recipe).isEmpty)
  }

  @Test func outliersAreCountedAsTheDefinitionSays() throws {
    let bench = try bench()
    let outline = try Model(folder: bench.model)
    var random = SeededRandom(seed: 4)
    for matrix in outline.outline.matrices.prefix(5) {
      let weight = try LinearWeight(
        outline.checkpoint.tensor(matrix.tensor, shape: [matrix.rows, matrix.columns]))
      let diagonal = random.normals(matrix.columns).map { Double($0 * $0) }
      let census = OutlierCensus(weight, diagonal: diagonal)
      let rows = weight.matrix(0..<matrix.rows)
      let scores = (0..<matrix.rows).flatMap { row in
        (0..<matrix.columns).map { abs(Double(rows[row, $0])) * diagonal[$0].squareRoot() }
      }
      let mean = scores.reduce(0, +) / Double(scores.count)
      #expect(census.count == scores.count && abs(census.sum / mean / Double(scores.count) - 1) < 1e-6)
      for times in [0.5, 1, 3] {
        // Values in the bin of the threshold are not told apart: as many as lie within 1/128 of it.
        let near = Double(scores.count { abs($0 / (times * mean) - 1) < 1.0 / 64 })
        let above = Double(scores.count { $0 > times * mean })
        #expect(abs(census.shareAbove(times) * Double(scores.count) - above) <= near)
      }
    }
  }

  /// The sum of errors against every choice of points that meets the budget.
  @Test func theLeastErrorIsFound() {
    var random = SeededRandom(seed: 9)
    let points = [0.4, 0.5, 0.6]
    for _ in 0..<300 {
      let weights = (0..<4).map { _ in Double(Int.random(in: 1...3, using: &random)) }
      // Convex and rising, so that the hull is the curve.
      let errors = (0..<4).map { _ in
        let first = Double.random(in: 0...1, using: &random)
        return [0, first, 2 * first + Double.random(in: 0...1, using: &random)]
      }
      let sparsities = SparsityAllocation.leastError(
        points: points, errors: errors, weights: weights, sparsity: 0.5)
      let total = zip(sparsities, weights).reduce(0) { $0 + $1.0 * $1.1 }
      #expect(abs(total - 0.5 * weights.reduce(0, +)) < 1e-9)
      func error(_ matrix: Int, _ sparsity: Double) -> Double {
        let place = min(1, Int((sparsity - 0.4) / 0.1 + 1e-9))
        let part = (sparsity - points[place]) / 0.1
        return errors[matrix][place] * (1 - part) + errors[matrix][place + 1] * part
      }
      let found = sparsities.enumerated().reduce(0) { $0 + error($1.offset, $1.element) }
      for choice in 0..<81 {
        let other = [choice % 3, choice / 3 % 3, choice / 9 % 3, choice / 27].map { points[$0] }
        guard zip(other, weights).reduce(0, { $0 + $1.0 * $1.1 }) >= total - 1e-9 else { continue }
        #expect(found <= other.enumerated().reduce(0) { $0 + error($1.offset, $1.element) } + 1e-9)
      }
    }
  }

  /// The same with whole steps of matrices of one size, against every choice that has the mean.
  @Test func theLeastErrorOfWholeStepsIsFound() {
    var random = SeededRandom(seed: 10)
    let points = [0.25, 0.5, 0.75]
    for _ in 0..<300 {
      let errors = (0..<4).map { _ in
        let first = Double.random(in: 0...1, using: &random)
        return [0, first, 2 * first + Double.random(in: 0...1, using: &random)]
      }
      let sparsities = SparsityAllocation.leastErrorInSteps(
        points: points, errors: errors, weights: [1, 1, 1, 1], sparsity: 0.5)
      let found = sparsities.map { points.firstIndex(of: $0) ?? -1 }
      #expect(found.reduce(0, +) == 4 && !found.contains(-1))
      func error(_ choice: [Int]) -> Double { zip(errors, choice).reduce(0) { $0 + $1.0[$1.1] } }
      for choice in 0..<81 {
        let other = [choice % 3, choice / 3 % 3, choice / 9 % 3, choice / 27]
        if other.reduce(0, +) == 4 { #expect(error(found) <= error(other) + 1e-9) }
      }
    }
  }

  @Test func whatDoesNotFitIsSaidBeforeAnyWork() throws {
    let bench = try bench()
    for (stages, text) in [
      (["warmStart: {sparsity: allocated}"], "needs `- allocate`"),
      (["warmStart: {sparsity: 0.5}", "allocate: {sparsity: 0.5}"], "must come before"),
      (["allocate: {range: 0.1}", "warmStart: {sparsity: allocated}"], "allocate.sparsity is missing"),
      (["warmStart: {keep: 2, of: 4}", "swap: {budget: matrix}"], "budget: matrix moves weights"),
      (
        ["allocate: {sparsity: 0.5, of: 4}", "warmStart: {sparsity: allocated}", "swap: {budget: matrix}"],
        "budget: matrix moves weights"
      ),
      (
        [
          "allocate: {sparsity: 0.5, of: 16, targets: q_proj}",
          "warmStart: {sparsity: allocated, targets: q_proj}", "swap: {moves: group}",
        ],
        "more than 1000 patterns"
      ),
      (
        ["allocate: {method: error, within: error, sparsity: 0.5}", "warmStart: {sparsity: allocated}"],
        "within works with method: owl"
      ),
      (["allocate: {sparsity: 0.5, of: 7}", "warmStart: {sparsity: allocated}"], "choose another `of`"),
      (["allocate: {sparsity: 0.9, of: 4}", "warmStart: {sparsity: allocated}"], "less than one of every 4"),
      (
        ["allocate: {method: uniform, sparsity: 0.6, of: 4}", "warmStart: {sparsity: allocated}"],
        "no whole number of every 4"
      ),
      (["warmStart: {sparsity: 0.5}", "swap: {moves: group}"], "needs an N:M mask"),
      (
        ["warmStart: {keep: 8, of: 24, targets: down_proj}", "swap: {moves: group}"],
        "more than 1000 patterns"
      ),
      (["warmStart: {sparsity: 0.5}", "swap: {holdOut: 0.1}"], "is less than one"),
      (["warmStart: {sparsity: 0.5}", "swap: {objective: refit, holdOut: 0.2}"], "holdOut works with"),
      (["warmStart: {keep: 2, of: 4}", "swap: {objective: refit, moves: group}"], "moves: group works with"),
      (
        ["warmStart: {sparsity: 0.5}", "swap: {holdOut: 0.2}", "swap: {id: again, holdOut: 0.5}"],
        "hold out different shares"
      ),
    ] {
      let (message, exitCode) = bench.failure {
        try bench.run(
          bench.recipe("PLACE").replacing("- PLACE", with: stages.map { "- \($0)" }.joined(separator: "\n  "))
        )
      }
      #expect(exitCode == 64 && message.contains(text), "\(message)")
    }
  }
}
