import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline
import EspalierTestSupport
import Testing

/// What the units of a run take of the memory is what the plan says. Each test measures in a process of its own, since buffers are
/// counted process by process.
@Suite struct MemoryPlanTests {
  @Test func masksAndSwaps() async {
    await #expect(processExitsWith: .success) {
      try MemoryPlan.check([
        ["warmStart: {sparsity: 0.6}", "swap"],
        ["warmStart: {keep: 2, of: 4}", "swap: {moves: group}"],
        ["warmStart: {method: ria, sparsity: 0.5}", "dsnot", "swap: {budget: matrix}"],
        ["allocate: {sparsity: 0.6}", "warmStart: {sparsity: allocated}", "swap", "reconstruct"],
        ["allocate: {method: error, sparsity: 0.6}", "warmStart: {sparsity: allocated}"],
        ["allocate: {method: refit, sparsity: 0.6}", "admm: {sparsity: allocated}"],
        ["allocate: {method: refit, sparsity: 0.5, of: 8}", "admm: {sparsity: allocated}"],
        ["warmStart: {sparsity: 0.6}", "swap: {holdOut: 0.3}"],
        ["warmStart: {sparsity: 0.6}", "swap: {objective: refit}"],
        // A row may come to keep all of its weights, and that is planned for.
        ["warmStart: {sparsity: 0.2}", "swap: {objective: refit, budget: matrix}"],
      ])
    }
  }

  @Test func newWeightsAndFrankWolfe() async {
    await #expect(processExitsWith: .success) {
      try MemoryPlan.check([
        ["warmStart: {sparsity: 0.6}", "frankWolfe: {iterations: 20}", "swap"],
        ["warmStart: {keep: 2, of: 4}", "frankWolfe: {iterations: 20, step: pairwise}"],
        ["warmStart: {sparsity: 0.6}", "frankWolfe: {iterations: 20, budget: matrix}"],
        ["warmStart: {sparsity: 0.9}", "reconstruct"],
        ["admm: {sparsity: 0.5}"], ["admm: {keep: 2, of: 4}"],
        ["sparseGPT: {sparsity: 0.5}"], ["sparseGPT: {sparsity: 0.5, budget: matrix}"],
      ])
    }
  }

  @Test func compactFolders() async {
    await #expect(processExitsWith: .success) {
      for format in ["compact", "both"] {
        try MemoryPlan.check(
          [["warmStart: {sparsity: 0.5}"], ["warmStart: {keep: 2, of: 4}", "reconstruct"]], emit: format)
      }
    }
  }

  @Test func sitesInTurnAndTargets() async {
    await #expect(processExitsWith: .success) {
      for factor in ["{}", "{target: residual, errors: relative}", "{kind: svd, rank: 40}"] {
        try MemoryPlan.check(
          [["warmStart: {sparsity: 0.5}", "swap"]], capture: "{propagate: sites, codec: none}",
          factor: factor)
      }
      try MemoryPlan.check(
        [
          ["warmStart: {sparsity: 0.5}", "swap: {objective: refit, holdOut: 0}"], ["admm: {keep: 2, of: 4}"],
        ],
        capture: "{propagate: sites, codec: none}", factor: "{target: residual, errors: relative}")
    }
  }

  @Test func factorsAndCapture() async {
    await #expect(processExitsWith: .success) {
      for factor in ["{kind: diagonal}", "{kind: svd, rank: 40}", "{inputs: bf16, codec: lz4}", "{}"] {
        for capture in ["{codec: none}", "{propagate: dense, codec: lz4}"] {
          try MemoryPlan.check([["warmStart: {sparsity: 0.5}"]], capture: capture, factor: factor)
        }
        // The sums of a shard are carried to the others in arrays.
        try MemoryPlan.check(
          [["warmStart: {sparsity: 0.5}"]], capture: "{codec: none, shards: 3}", factor: factor,
          arrays: 1 << 20)
      }
    }
  }
}

private enum MemoryPlan {
  /// Runs recipes on checkpoints of several shapes and compares, unit by unit, the buffers that were taken with those planned.
  ///
  /// What zstd allocates for itself is planned but not counted, so these runs do without it.
  ///
  /// - Parameter arrays: the most bytes of arrays, which are planned but not counted, too.
  static func check(
    _ chains: [[String]], capture: String = "{codec: none}", factor: String = "{}", emit: String = "dense",
    arrays: Int = 1 << 19
  ) throws {
    for (hidden, inner, threads) in [(96, 256, 2), (320, 800, 3)] {
      var checkpoint = TinyCheckpoint()
      (checkpoint.hidden, checkpoint.inner, checkpoint.blocks) = (hidden, inner, 1)
      let bench = try Workbench(checkpoint)
      for (index, chain) in chains.enumerated() {
        let recipe = bench.recipe(chain, capture: capture, factor: factor, samples: 8, length: 64)
        let job = try bench.job(
          recipe, output: "out\(index)", work: "work\(index)", overrides: ["emit.format=\(emit)"],
          device: Device(threads: threads))
        try Runner(job) { _ in }.run()
        let events = try String(decoding: Folder.read(job.work + "/events.jsonl"), as: UTF8.self)
        for line in events.split(separator: "\n") {
          let event = try JSON(parsing: String(line))
          guard let unit = event["unit"]?.string, let taken = event["buffers"]?.integer,
            let planned = event["plannedBuffers"]?.integer
          else { continue }
          // Texts are held in arrays, which are not counted.
          if unit == "tokenize" { continue }
          #expect(
            taken <= planned,
            "\(chain) \(hidden) x \(inner), \(threads) threads: \(unit) takes \(taken) of \(planned)")
          #expect(
            2 * (taken + arrays) >= planned,
            "\(chain) \(hidden) x \(inner), \(threads) threads: \(unit) takes \(taken) of \(planned)")
        }
      }
    }
  }
}
