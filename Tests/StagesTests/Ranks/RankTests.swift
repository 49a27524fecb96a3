import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Synchronization
import Testing

/// Several ranks, which are threads here, make the bytes of one process.
@Suite(.serialized) struct RankTests {
  /// Runs a job with several ranks.
  ///
  /// - Parameter body: called with a rank's events; it may throw in that rank's place.
  private func run(
    _ bench: Workbench, _ recipe: String, ranks: Int, output: String, work: String,
    stop: @escaping @Sendable (_ rank: Int, _ event: ProgressEvent) -> Void = { _, _ in }
  ) -> (errors: [Int: EspalierError], bytes: Int) {
    ThreadRanks.run(ranks) { ranks in
      let model = try Model(folder: bench.model)
      let own = Device(threads: 1)
      let job = try Job(
        recipe: Recipe(text: recipe, source: "recipe.yaml", registry: .builtIn),
        checkpoint: model.checkpoint, model: model.outline, output: bench.folder.path + "/" + output,
        work: bench.folder.path + "/" + work, memory: 1 << 30, device: own, arithmetic: own.arithmetic,
        ranks: ranks, scratch: "\(bench.folder.path)/scratch-\(work)")
      try Runner(job) { stop(ranks.rank, $0) }.run()
    }
  }

  /// The artifacts of a work folder: what each key holds.
  private func artifacts(_ bench: Workbench, _ work: String) throws -> [Digest: Digest] {
    let store = try ArtifactStore(existing: bench.folder.path + "/" + work)
    return Dictionary(
      try store.manifests().map { ($0.key, $0.digest) }, uniquingKeysWith: { first, _ in first })
  }

  private static let chains: [(capture: String, factor: String, stages: [String])] = [
    ("{shards: 4}", "{}", ["warmStart: {sparsity: 0.5}"]),
    ("{shards: 4}", "{}", ["warmStart: {keep: 2, of: 4}", "swap: {holdOut: 0.3}", "reconstruct"]),
    ("{shards: 4, propagate: sites}", "{target: residual}", ["admm: {sparsity: 0.5}"]),
    ("{shards: 3, propagate: dense}", "{kind: svd, rank: 24}", ["warmStart: {sparsity: 0.5}", "swap"]),
    (
      "{shards: 2}", "{}",
      ["allocate: {sparsity: 0.6}", "warmStart: {sparsity: allocated}", "swap"]
    ),
    ("{}", "{}", ["warmStart: {sparsity: 0.5}", "swap"]),
  ]

  @Test(arguments: chains.indices) func theBytesAreThoseOfOneProcess(chain: Int) throws {
    let (capture, factor, stages) = Self.chains[chain]
    let bench = try Workbench()
    let recipe = bench.recipe(stages, capture: capture, factor: factor)
    try bench.run(recipe, output: "one", work: "work-one")
    let wanted = try bench.digest(bench.folder.path + "/one")
    let artifacts = try artifacts(bench, "work-one")
    for ranks in [1, 2, 3, 5] {
      let result = run(bench, recipe, ranks: ranks, output: "out-\(ranks)", work: "work-\(ranks)")
      #expect(result.errors.isEmpty, "\(ranks) ranks: \(result.errors)")
      #expect(try bench.digest(bench.folder.path + "/out-\(ranks)") == wanted, "\(ranks) ranks")
      #expect(try self.artifacts(bench, "work-\(ranks)") == artifacts, "\(ranks) ranks")
    }
  }

  private static let sharing: [(propagate: String, stages: [String])] = [
    ("pruned", ["warmStart: {keep: 2, of: 4}", "swap: {holdOut: 0.3}", "reconstruct"]),
    ("sites", ["admm: {keep: 2, of: 4}", "swap: {objective: refit, maxSwaps: 2}"]),
    ("dense", ["sparseGPT: {sparsity: 0.5}"]),
    ("pruned", ["warmStart: {sparsity: 0.5}", "swap: {budget: matrix, maxSwaps: 2}"]),
  ]

  /// Ranks that share the rows of a matrix make the masks, weights and reports of one process, whether blocks of rows are whole or not.
  @Test(arguments: sharing.indices) func rowsOfOneMatrixOnSeveralRanks(chain: Int) throws {
    let (propagate, stages) = Self.sharing[chain]
    var checkpoint = TinyCheckpoint()
    (checkpoint.inner, checkpoint.blocks, checkpoint.shards) = (1100, 1, 2)
    let bench = try Workbench(checkpoint)
    let recipe = bench.recipe(stages, capture: "{shards: 2, propagate: \(propagate)}")
    try bench.run(recipe, output: "one", work: "work-one")
    func reports(_ work: String) throws -> [Digest: String] {
      Dictionary(
        try ArtifactStore(existing: bench.folder.path + "/" + work).manifests().map {
          ($0.key, $0.report.text)
        }, uniquingKeysWith: { first, _ in first })
    }
    for ranks in [2, 3, 8] {
      let result = run(bench, recipe, ranks: ranks, output: "out-\(ranks)", work: "work-\(ranks)")
      #expect(result.errors.isEmpty, "\(ranks) ranks: \(result.errors)")
      #expect(
        try bench.digest(bench.folder.path + "/out-\(ranks)")
          == bench.digest(bench.folder.path + "/one"), "\(ranks) ranks")
      #expect(try artifacts(bench, "work-\(ranks)") == artifacts(bench, "work-one"), "\(ranks) ranks")
      #expect(try reports("work-\(ranks)") == reports("work-one"), "\(ranks) ranks")
    }
  }

  /// A damaged weight is found by the rank that hashes it, and named; nothing is written.
  @Test func aDamagedTensorIsNamedByTheRankThatReadsIt() throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.edit = { name, values in
      if name == "model.layers.1.mlp.down_proj.weight" { values[7] = .nan }
    }
    let bench = try Workbench(checkpoint)
    let recipe = bench.recipe("warmStart: {sparsity: 0.5}", capture: "{shards: 2}")
    let result = run(bench, recipe, ranks: 3, output: "out", work: "work")
    #expect(result.errors.count == 3)
    #expect(
      result.errors.values.allSatisfy { $0.code == .badInput && "\($0)".contains("down_proj") },
      "\(result.errors)")
    #expect(try Folder.entry(bench.folder.path + "/out") == nil)
  }

  @Test(arguments: ["mixtral", "qwen3_moe-fused"]) func aMixtureOfExperts(family: String) throws {
    let checkpoint = try FamilyCheckpoint(family)
    for samples in [6, 40] {
      let bench = try Workbench(family: checkpoint, samples: samples, length: 8)
      let recipe = bench.recipe(
        "warmStart: {sparsity: 0.5}", "swap", capture: "{shards: 3}", samples: samples, length: 8)
      try bench.run(recipe, output: "one", work: "work-one")
      for ranks in [2, 3, 4] {
        let result = run(bench, recipe, ranks: ranks, output: "out-\(ranks)", work: "work-\(ranks)")
        #expect(result.errors.isEmpty, "\(result.errors)")
        #expect(try artifacts(bench, "work-\(ranks)") == artifacts(bench, "work-one"))
      }
    }
  }

  /// A run that lost a rank goes on with another number of ranks, or alone.
  @Test(arguments: [3, 9, 14, 21, 30]) func aRunGoesOnWithOtherRanks(after units: Int) throws {
    let bench = try Workbench()
    let recipe = bench.recipe("warmStart: {sparsity: 0.5}", "swap", capture: "{shards: 4}")
    try bench.run(recipe, output: "one", work: "work-one")
    let made = Mutex(0)
    for ranks in [3, 2] {
      let job = ThreadRanks.run(ranks) { ranks in
        let model = try Model(folder: bench.model)
        let own = Device(threads: 1)
        let job = try Job(
          recipe: Recipe(text: recipe, source: "recipe.yaml", registry: .builtIn),
          checkpoint: model.checkpoint, model: model.outline, output: bench.folder.path + "/out",
          work: bench.folder.path + "/work", memory: 1 << 30, device: own, arithmetic: own.arithmetic,
          ranks: ranks, scratch: "\(bench.folder.path)/scratch")
        try Runner(job) { event in
          guard case .committed = event else { return }
          if made.withLock({ count in
            count += 1
            return count % units == 0
          }) {
            _ = ranks.fail(EspalierError(.io, "the disk is full"))
          }
        }.run()
      }
      // All end, or none if the others had little left to do.
      #expect([0, ranks].contains(job.errors.count), "\(job.errors)")
      #expect(job.errors.values.allSatisfy { $0.code == .io }, "\(job.errors)")
    }
    _ = try bench.computedUnits(recipe, output: "out", work: "work")
    #expect(
      try bench.digest(bench.folder.path + "/out") == bench.digest(bench.folder.path + "/one"))
    #expect(try artifacts(bench, "work") == artifacts(bench, "work-one"))
  }
}
