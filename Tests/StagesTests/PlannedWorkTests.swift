import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Testing

/// The work that the built-in stages announce.
@Suite struct PlannedWorkTests {
  @Test func everyStageThatComputesSaysSo() throws {
    let bench = try Workbench()
    let chains = [
      ["allocate: {method: owl, sparsity: 0.5}", "warmStart: {sparsity: allocated}", "swap", "dsnot"],
      [
        "allocate: {method: error, sparsity: 0.5}", "warmStart: {sparsity: allocated, method: ria}",
        "frankWolfe",
      ],
      ["warmStart: {keep: 2, of: 4}", "swap: {moves: group}", "frankWolfe: {step: pairwise}", "reconstruct"],
      ["warmStart: {method: magnitude, sparsity: 0.5}", "swap: {budget: matrix}"],
      ["warmStart: {sparsity: 0.5}", "swap: {objective: refit}"],
      ["sparseGPT: {sparsity: 0.5}"], ["admm: {sparsity: 0.5}"],
    ]
    var seen: Set<String> = []
    for chain in chains {
      for factor in ["{}", "{kind: svd, rank: 8}"] {
        let recipe = """
          stages:
            - tokenize: {corpus: "\(bench.corpus)", samples: 6, length: 24, draw: consecutive}
            - capture: {codec: lz4}
            - factor: \(factor)
          \(chain.map { "  - \($0)" }.joined(separator: "\n"))
            - emit
            - evaluate: {text: "\(bench.corpus)", length: 32}
          """
        let plan = try Planner.plan(try bench.job(recipe))
        for stage in plan.stages {
          seen.insert(stage.name)
          #expect(stage.work.readBytes > 0 && stage.work.commits == stage.units, "\(stage.id)")
          #expect(stage.work.writtenBytes >= stage.artifactBytes, "\(stage.id)")
          // The copy of the checkpoint computes nothing.
          #expect(stage.work.memoryBytes > 0 || stage.name == "emit", "\(stage.id)")
          if ["capture", "swap", "frankWolfe", "reconstruct", "sparseGPT", "admm", "evaluate"].contains(
            stage.name)
          {
            #expect(stage.work.allOperations > 0, "\(stage.id)")
          }
        }
        #expect(plan.work.encodedBytes[.lz4] ?? 0 > 0 && plan.work.decodedBytes[.lz4] ?? 0 > 0)
      }
    }
    #expect(seen == Set(StageRegistry.builtIn.names))
  }

  /// How sparse an allocation makes a matrix is not known: what is planned is enough for every sparsity.
  @Test(arguments: ["reconstruct", "swap", "frankWolfe", "dsnot", "admm", "sparseGPT"])
  func allocatedSparsitiesArePlannedForTheWorstCase(stage: String) throws {
    var checkpoint = TinyCheckpoint()
    // Wide enough that rows of some sparsities, but not of all, have a factor of their own.
    checkpoint.inner = 1600
    let bench = try Workbench(checkpoint)
    func memory(_ pattern: String, groups: String = "") throws -> WorkingSet {
      let makes = ["admm", "sparseGPT"].contains(stage)
      let first = "\(makes ? stage : "warmStart"): {\(pattern)}"
      let recipe = bench.recipe("allocate: {sparsity: 0.5\(groups)}", first, makes ? "dsnot" : stage)
      let plan = try Planner.plan(try bench.job(recipe))
      return try #require(plan.stages.first { $0.id == stage }).memory
    }
    let planned = try memory("sparsity: allocated")
    for sparsity in ["0.001", "0.2", "0.36", "0.5", "0.9", "0.999"] {
      let needed = try memory("sparsity: \(sparsity)")
      #expect(planned.rows >= needed.rows && planned.total >= needed.total, "\(sparsity)")
    }
    for of in [4, 8, 16] {
      let planned = try memory("sparsity: allocated", groups: ", of: \(of)")
      for keep in 1..<of {
        let needed = try memory("keep: \(keep), of: \(of)")
        #expect(planned.rows >= needed.rows && planned.total >= needed.total, "\(keep):\(of)")
      }
    }
  }

  /// Larger jobs announce more work.
  @Test func workFollowsTheSizes() throws {
    let bench = try Workbench()
    func work(_ stage: String, _ more: String = "", overrides: [String] = []) throws -> Work {
      let chain = stage == "capture" ? "swap" : more.isEmpty ? stage : "\(stage): {\(more)}"
      let job = try bench.job(bench.recipe("warmStart: {sparsity: 0.5}", chain), overrides: overrides)
      return try #require(Planner.plan(job).stages.first { $0.name == stage }).work
    }
    #expect(try work("swap", "maxSwaps: 1").memoryBytes < work("swap").memoryBytes)
    #expect(try work("frankWolfe", "iterations: 10").memoryBytes < work("frankWolfe").memoryBytes)
    #expect(try work("dsnot", "cycles: 1").memoryBytes < work("dsnot").memoryBytes)
    for sizes in [["tokenize.samples=12"], ["tokenize.length=48"]] {
      #expect(try work("capture").allOperations < work("capture", overrides: sizes).allOperations)
    }
  }
}
