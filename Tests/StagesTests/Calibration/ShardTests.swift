import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Testing

/// Calibration windows that go in several shards.
@Suite(.serialized) struct ShardTests {
  /// Tokens as a corpus, `windows x length`.
  private func write(_ tokens: ArraySlice<Int32>, length: Int, to path: String) throws {
    var writer = try SafetensorsWriter(
      path: path, tensors: [("input_ids", .i32, [tokens.count / length, length])])
    try writer.append(Array(tokens))
    try writer.finish()
  }

  private func factors(_ bench: Workbench, _ work: String) throws -> [String: SafetensorsFile] {
    let store = try ArtifactStore(existing: bench.folder.path + "/" + work)
    return Dictionary(
      try store.manifests().filter { $0.components["stage"]?.string == "factor" }.map {
        (
          $0.components["place"]?.string ?? "",
          try SafetensorsFile(path: store.path($0.key, "factor.safetensors"))
        )
      }, uniquingKeysWith: { _, last in last })
  }

  /// The factors of two shards are the sums of those that two runs find, one on each half of the windows.
  @Test func theSumsOfShardsAreAdded() throws {
    let bench = try Workbench()
    var random = SeededRandom(seed: 4)
    let (windows, length) = (7, 24)
    let tokens = (0..<windows * length).map { _ in Int32.random(in: 0...200, using: &random) }
    let halves = [tokens[..<(3 * length)], tokens[(3 * length)...]]
    for (name, part) in [("first", halves[0]), ("second", halves[1]), ("all", tokens[...])] {
      let path = "\(bench.folder.path)/\(name).safetensors"
      try write(part, length: length, to: path)
      let shards = name == "all" ? 2 : 1
      try bench.run(
        bench.recipe(
          "warmStart: {sparsity: 0.5}", capture: "{propagate: dense, shards: \(shards)}",
          samples: part.count / length, length: length),
        output: name, work: "work-\(name)", overrides: ["tokenize.corpus=\(path)"])
    }
    let (first, second) = (try factors(bench, "work-first"), try factors(bench, "work-second"))
    let all = try factors(bench, "work-all")
    #expect(all.count == 8)
    for (place, file) in all {
      let (a, b) = (try #require(first[place]), try #require(second[place]))
      for name in ["diagonal", "sums"] {
        let (x, y) = (try a.tensor(name).doubles(), try b.tensor(name).doubles())
        #expect(try file.tensor(name).doubles() == zip(x, y).map { $0 + $1 }, "\(name) of \(place)")
      }
      let (x, y) = (
        try a.tensor("gram").floats().array(), try b.tensor("gram").floats().array()
      )
      #expect(try file.tensor("gram").floats().array() == zip(x, y).map { $0 + $1 }, "\(place)")
    }
  }

  /// Threads and memory make no difference; the number of shards does, as the key says.
  @Test(arguments: [
    "{}", "{propagate: sites}", "{propagate: dense}",
  ])
  func onlyTheNumberOfShardsMatters(capture: String) throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.inner = 4096
    checkpoint.blocks = 2
    let bench = try Workbench(checkpoint)
    func recipe(_ shards: Int) -> String {
      bench.recipe(
        "warmStart: {sparsity: 0.5}", "swap: {holdOut: 0.3}",
        capture: capture.replacing(
          "}", with: capture == "{}" ? "shards: \(shards)}" : ", shards: \(shards)}"),
        samples: 7)
    }
    func run(_ shards: Int, _ name: String, memory: Int = 1 << 30, threads: Int = 2) throws -> [String:
      String]
    {
      let job = try bench.job(
        recipe(shards), output: name, work: "work-\(name)", memory: memory,
        device: Device(threads: threads))
      try Runner(job) { _ in }.run()
      return try bench.digest(bench.folder.path + "/" + name)
    }
    let plan = try Planner.plan(bench.job(recipe(3)))
    let three = try run(3, "three")
    #expect(try run(3, "small", memory: plan.leastMemory, threads: 3) == three)
    #expect(try run(3, "single", threads: 1) == three)
    #expect(try bench.computedUnits(recipe(3), output: "three", work: "work-three").isEmpty)
    #expect(try bench.computedUnits(recipe(2), output: "two", work: "work-three").contains("capture/embed"))
  }

  /// Factors of a low rank, targets of the dense model, and sums in files.
  @Test(arguments: [
    ("{kind: svd, rank: 24}", "{}", ""), ("{kind: diagonal}", "{}", ""),
    ("{target: residual}", "{propagate: sites}", "swap"), ("{target: dense}", "{}", "admm: {sparsity: 0.5}"),
    ("{inputs: f32}", "{}", "swap"),
  ])
  func everyKindOfSumHasShards(factor: String, capture: String, refiner: String) throws {
    let bench = try Workbench()
    let capture = capture == "{}" ? "{shards: 4}" : capture.replacing("}", with: ", shards: 4}")
    let stages =
      refiner.hasPrefix("admm")
      ? [refiner] : ["warmStart: {sparsity: 0.5}"] + (refiner.isEmpty ? [] : [refiner])
    let recipe = bench.recipe(stages, capture: capture, factor: factor)
    let job = try bench.job(recipe, device: Device(threads: 3))
    try Runner(job) { _ in }.run()
    let other = try bench.job(recipe, output: "other", work: "work-other", device: Device(threads: 1))
    try Runner(other) { _ in }.run()
    #expect(
      try bench.digest(bench.folder.path + "/out") == bench.digest(bench.folder.path + "/other"))
  }

  @Test func moreShardsThanWindowsAreRefused() throws {
    let bench = try Workbench()
    let job = try bench.job(
      bench.recipe("warmStart: {sparsity: 0.5}", capture: "{shards: 7}", samples: 6))
    let (text, code) = bench.failure { _ = try Planner.plan(job) }
    #expect(code == 64 && text.contains("shards is 7") && text.contains("6 calibration windows"), "\(text)")
  }
}
