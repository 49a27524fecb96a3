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
    func memory(_ sparsity: String) throws -> WorkingSet {
      let makes = ["admm", "sparseGPT"].contains(stage)
      let first = "\(makes ? stage : "warmStart"): {sparsity: \(sparsity)}"
      let recipe = bench.recipe("allocate: {sparsity: 0.5}", first, makes ? "dsnot" : stage)
      let plan = try Planner.plan(try bench.job(recipe))
      return try #require(plan.stages.first { $0.id == stage }).memory
    }
    let planned = try memory("allocated")
    for sparsity in ["0", "0.2", "0.36", "0.5", "0.9", "1"] {
      let needed = try memory(sparsity)
      #expect(planned.rows >= needed.rows && planned.total >= needed.total, "\(sparsity)")
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

  @Test func calibrationMeasuresAndLeavesNothing() throws {
    let bench = try Workbench()
    let before = try Folder.names(in: bench.folder.path)
    let rates = try MachineRates.measured(onTheDiskOf: bench.folder.path + "/not/there", by: device)
    #expect(try Folder.names(in: bench.folder.path) == before)
    // Other tests take the processor at the same time: what is measured twice may differ, but not by orders of magnitude.
    let bytes = [UInt8](repeating: 1, count: 16 << 20)
    expectNear(rates.hash, Double(bytes.count) / seconds { _ = SHA256.digest(of: bytes) })
    var random = SeededRandom(seed: 1)
    let path = bench.folder.path + "/w.safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("w", .bf16, [512, 1024])])
    try writer.append([UInt16](repeating: 0x3F80, count: 512 * 1024))
    try writer.finish()
    let weight = try LinearWeight(SafetensorsFile(path: path).tensor("w"))
    var inputs = random.matrix(1024, 1024)
    for (precision, rate) in rates.operations {
      let packed = PackedMatrix(rounding: &inputs, precision, on: device)
      var outputs = Matrix(rows: 1024, columns: 512)
      let times = (0..<5).map { _ in seconds { linear(packed, weight, into: &outputs, on: device) } }
      expectNear(rate, 2 * 1024 * 1024 * 512 / (times.min() ?? 1))
    }
    // Memory is faster than hashing what is in it, and than any disk; a small commit takes some synced writes.
    #expect(rates.memory > rates.hash && rates.memory > rates.write && rates.memory > rates.read)
    #expect(rates.commit > 4096 / rates.memory && rates.commit < 10)
    for codec: SpillCodec in [.none, .lz4, .zstd(level: 1)] {
      // Every chunk is hashed or checksummed, and compressing slows that down by less than a hundredfold.
      let (encode, decode) = (try #require(rates.encode[codec]), try #require(rates.decode[codec]))
      #expect(encode > rates.hash / 100 && decode > rates.hash / 100)
    }
  }

  private func seconds(_ body: () -> Void) -> Double {
    let clock = ContinuousClock()
    return clock.measure(body) / .seconds(1)
  }

  private func expectNear(_ a: Double, _ b: Double) {
    #expect(a > b / 20 && a < b * 20, "\(a) and \(b)")
  }
}
