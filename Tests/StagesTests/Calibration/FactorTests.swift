import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Testing

/// What the factor stage makes beyond one matrix in memory: matrices in files, sums of several runs, inputs.
@Suite(.serialized) struct FactorTests {
  private let capture = "{propagate: dense}"

  /// The manifests of the factors of a work folder, by place.
  private func factors(_ bench: Workbench, _ work: String) throws -> [String: Manifest] {
    let store = try ArtifactStore(existing: bench.folder.path + "/" + work)
    return Dictionary(
      try store.manifests().filter { $0.components["stage"]?.string == "factor" }.map {
        ($0.components["place"]?.string ?? "", $0)
      }, uniquingKeysWith: { _, last in last })
  }

  private func file(_ bench: Workbench, _ work: String, _ manifest: Manifest) throws -> SafetensorsFile {
    let store = try ArtifactStore(existing: bench.folder.path + "/" + work)
    return try SafetensorsFile(path: store.path(manifest.key, "factor.safetensors"))
  }

  // MARK: - In files

  /// A job whose memory does not hold the Gram matrices makes the same artifacts, and its plan says so.
  @Test func theMemoryChangesNoByte() throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.inner = 8192
    checkpoint.blocks = 1
    let bench = try Workbench(checkpoint)
    let recipe = bench.recipe("warmStart: {sparsity: 0.5}", capture: capture, samples: 4)
    func run(_ memory: Int, _ name: String) throws -> Plan {
      let job = try bench.job(recipe, output: name, work: "work-\(name)", memory: memory)
      let plan = try Planner.plan(job)
      try Runner(job) { _ in }.run()
      return plan
    }
    let large = try run(1 << 30, "large")
    let small = try run(large.leastMemory, "small")
    // The matrix alone has 256 MiB.
    func factorBytes(_ plan: Plan) -> Int? {
      plan.stages.first { $0.name == "factor" }.map { $0.memory.gram + $0.memory.gramPages }
    }
    #expect(try #require(factorBytes(large)) > 256 << 20 && #require(factorBytes(small)) < 200 << 20)
    let (a, b) = (try factors(bench, "work-large"), try factors(bench, "work-small"))
    #expect(a.count == 4 && a.mapValues(\.digest) == b.mapValues(\.digest))
    #expect(a.mapValues(\.key) == b.mapValues(\.key))
    #expect(try bench.digest(bench.folder.path + "/large") == bench.digest(bench.folder.path + "/small"))
  }

  // MARK: - Sums

  /// The factors of a run that adds an earlier one are those of both texts.
  @Test(arguments: ["{}", "{kind: svd, rank: 64}", "{kind: diagonal}"])
  func earlierFactorsAreAdded(factor: String) throws {
    let bench = try Workbench()
    let other = bench.folder.path + "/other.txt"
    try bench.write(TinyCheckpoint.text(3000, seed: 9), to: other)
    let chain = "warmStart: {sparsity: 0.5}"
    func recipe(_ factor: String) -> String {
      bench.recipe(chain, capture: capture, factor: factor, samples: 5)
    }
    try bench.run(recipe(factor), output: "out-first", work: "first", overrides: ["tokenize.corpus=\(other)"])
    try bench.run(recipe(factor), output: "out-second", work: "second")
    let first = "factor.add=[\(bench.folder.path)/first]"
    try bench.run(recipe(factor), output: "out-sum", work: "sum", overrides: [first])
    let (a, b, sum) = (try factors(bench, "first"), try factors(bench, "second"), try factors(bench, "sum"))
    #expect(sum.count == 8 && Set(sum.keys) == Set(a.keys))
    for (place, manifest) in sum {
      let one = try file(bench, "first", try #require(a[place]))
      let two = try file(bench, "second", try #require(b[place]))
      let both = try file(bench, "sum", manifest)
      for name in ["diagonal", "sums"] {
        let (x, y, z) = (
          try one.tensor(name).doubles(), try two.tensor(name).doubles(), try both.tensor(name).doubles()
        )
        for index in z.indices { #expect(abs(x[index] + y[index] - z[index]) <= 1e-12 * (1 + abs(z[index]))) }
      }
      if factor == "{}" {
        let (x, y, z) = (
          try one.tensor("gram").floats().array(), try two.tensor("gram").floats().array(),
          try both.tensor("gram").floats().array()
        )
        #expect(z.indices.allSatisfy { x[$0] + y[$0] == z[$0] })
      }
      #expect(manifest.factorReport?.tokens == 240)
      #expect(
        manifest.components["earlier"]?.array?.compactMap(\.string) == [try #require(a[place]).digest.hex])
      if factor.contains("svd") { #expect((manifest.factorReport?.discardedEnergy ?? 1) < 1e-4) }
    }
    // The folder's name is in no key, what it holds is.
    try Folder.move(bench.folder.path + "/first", to: bench.folder.path + "/moved")
    let moved = bench.folder.path + "/moved"
    let again = recipe(factor).replacing(
      "- factor: {", with: "- factor: {add: [\"\(moved)\"]" + (factor == "{}" ? "" : ", "))
    #expect(try bench.computedUnits(again, output: "out-sum", work: "sum").isEmpty)
    #expect(
      try bench.computedUnits(recipe(factor), output: "third", work: "sum").count { $0.hasPrefix("factor") }
        == 8)
  }

  @Test func factorsThatDoNotFitAreTold() throws {
    let bench = try Workbench()
    func recipe(_ factor: String = "{}", capture: String = "{propagate: dense}", _ chain: String...) -> String
    {
      bench.recipe(
        (["warmStart: {sparsity: 0.5}"] + chain).joined(separator: "\n  - "), capture: capture,
        factor: factor, samples: 10)
    }
    try bench.run(recipe(), output: "out-first", work: "first")
    let add = "add: [\"\(bench.folder.path)/first\"]"
    func expect(_ recipe: String, _ text: String, work: String = "other", code: Int32 = 64) throws {
      let (found, exitCode) = bench.failure { try bench.run(recipe, output: "out", work: work) }
      #expect(found.contains(text) && exitCode == code, "\(found)")
    }
    try expect(recipe("{\(add), kind: diagonal}"), "another kind")
    try expect(recipe("{\(add)}", "swap: {holdOut: 0.2}"), "another share")
    try expect(recipe("{\(add)}", capture: "{}"), "capture.propagate")
    try expect(recipe("{\(add)}"), "own work folder", work: "first")
    try expect(recipe("{add: [\(bench.folder.path)/nothing]}"), "nothing", code: 66)
    // Damage is found before anything is added.
    let factor = try #require(try factors(bench, "first")["block 1 site 2"])
    let path = try ArtifactStore(existing: bench.folder.path + "/first").path(
      factor.key, "factor.safetensors")
    var bytes = try Folder.read(path)
    bytes[bytes.count - 1] ^= 1
    try Folder.writeAtomically(bytes, to: path)
    try expect(recipe("{\(add)}"), "has changed since it was written", code: 65)
    try Folder.remove(path)
    try expect(recipe("{\(add)}"), "was deleted")
    // Another model.
    var wide = TinyCheckpoint()
    wide.hidden *= 2
    try Folder.remove(bench.model)
    try wide.write(to: bench.model)
    try expect(recipe("{\(add)}"), "another model", work: "wide")
  }

  // MARK: - Inputs

  /// The spilled inputs are those of the Gram matrix, whatever their codec, and change nothing else.
  @Test func inputsAreKeptOnRequest() throws {
    let bench = try Workbench()
    let chain = "warmStart: {sparsity: 0.5}"
    func units(_ factor: String, _ output: String) throws -> [String] {
      try bench.computedUnits(
        bench.recipe(chain, capture: capture, factor: factor, samples: 5), output: output)
    }
    _ = try units("{}", "plain")
    // Masks are not made again.
    #expect(try units("{inputs: f32, codec: lz4}", "spilled").allSatisfy { !$0.hasPrefix("warmStart") })
    #expect(try units("{inputs: f32}", "spilled").isEmpty)
    let store = try ArtifactStore(existing: bench.folder.path + "/work")
    var seen = 0
    for manifest in try store.manifests() where manifest.factorReport?.inputs != nil {
      let array = try SpillArray(folder: store.path(manifest.key, "inputs"))
      let columns = try #require(manifest.factorReport).columns
      #expect(array.sequences == 5 && array.tokens == 24 && array.width == columns)
      var inputs = Matrix(rows: 5 * 24, columns: columns)
      var span = inputs.elements.mutableSpan
      try array.read(0..<5, into: &span)
      let file = try SafetensorsFile(path: store.path(manifest.key, "factor.safetensors"))
      let diagonal = try file.tensor("diagonal").doubles()
      let gram = try file.tensor("gram").floats().array()
      for i in 0..<columns {
        // The same values in the same order.
        #expect((0..<120).reduce(0.0) { $0 + Double(inputs[$1, i]) * Double(inputs[$1, i]) } == diagonal[i])
        for j in 0..<columns {
          let sum = (0..<120).reduce(0.0) { $0 + Double(inputs[$1, i]) * Double(inputs[$1, j]) }
          let size = (diagonal[i] * diagonal[j]).squareRoot()
          #expect(abs(sum - Double(gram[i * columns + j])) <= 1e-5 * size)
        }
      }
      seen += 1
    }
    #expect(seen == 8)
  }
}
