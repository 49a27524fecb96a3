import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Synchronization
import Testing

/// The Gram matrices of experts, of the tokens that are routed to them.
@Suite(.serialized) struct ExpertFactorTests {
  private let family = "qwen3_moe"

  private func recipe(_ bench: Workbench, samples: Int, length: Int, shrink: Int) -> String {
    bench.recipe(
      "warmStart: {keep: 2, of: 4}", capture: "{propagate: dense, precision: f32}",
      factor: "{keep: always, shrink: \(shrink)}", samples: samples, length: length)
  }

  /// More tokens than a batch has, so that windows are counted on from batch to batch.
  @Test func anExpertsFactorIsThatOfItsTokens() throws {
    let (samples, length) = (60, 24)
    let bench = try Workbench(family: FamilyCheckpoint(family), samples: samples, length: length)
    try bench.run(recipe(bench, samples: samples, length: length, shrink: 0))
    let routed = try seen(bench, length: length, everyToken: false)
    let all = try seen(bench, length: length, everyToken: true)
    let factors = try factors(bench)
    let outline = try Model(folder: bench.model).outline
    #expect(factors.count == outline.blocks.flatMap(\.sites).count)
    for (block, site, manifest, path) in factors {
      let own = try #require(routed[block][site.name])
      let every = try #require(all[block][site.name])
      #expect(every.tokens == (0..<Int32(samples * length)).map { $0 })
      // The tokens of an expert are rows of what all tokens would be to it.
      let rows = own.tokens.flatMap { token in
        every.inputs[Int(token) * site.columns..<(Int(token) + 1) * site.columns]
      }
      #expect(own.inputs == rows, "block \(block), \(site.name)")
      #expect(manifest.factorReport?.tokens == own.tokens.count)
      #expect(manifest.factorReport?.isShrunk == false)
      #expect((site.tokenShare < 1) == (own.tokens.count < samples * length))
      try expectFactor(
        path, [(own.inputs, 1)], columns: site.columns, "block \(block), \(site.name)")
    }
    // Every token passes as many experts as the configuration says.
    for block in routed where block.keys.contains("expert.0.mlp") {
      let tokens = (0..<6).flatMap { block["expert.\($0).mlp"]?.tokens ?? [] }
      #expect(Dictionary(grouping: tokens) { $0 }.values.allSatisfy { $0.count == 3 })
      #expect(tokens.count == 3 * samples * length)
    }
  }

  /// Sequences are held out whole, whichever of their tokens an expert sees.
  @Test func heldOutTokensOfAnExpertAreThoseOfHeldOutWindows() throws {
    let (samples, length, share) = (60, 24, 0.3)
    let bench = try Workbench(family: FamilyCheckpoint(family), samples: samples, length: length)
    let recipe = recipe(bench, samples: samples, length: length, shrink: 0).replacing(
      "  - emit", with: "  - swap: {holdOut: \(share)}\n  - emit")
    try bench.run(recipe)
    let isHeldOut = (0..<samples).map { Int(Double($0 + 1) * share) > Int(Double($0) * share) }
    let routed = try seen(bench, length: length, everyToken: false)
    for (block, site, manifest, path) in try factors(bench) {
      let own = try #require(routed[block][site.name])
      let place = "block \(block), \(site.name)"
      func inputs(heldOut: Bool) -> [Float] {
        own.tokens.indices.filter { isHeldOut[Int(own.tokens[$0]) / length] == heldOut }
          .flatMap { own.inputs[$0 * site.columns..<($0 + 1) * site.columns] }
      }
      let apart = inputs(heldOut: true)
      #expect(manifest.factorReport?.heldOutTokens == apart.count / site.columns)
      try expectFactor(path, [(inputs(heldOut: false), 1)], columns: site.columns, place)
      try expectGram(
        "heldOut", SafetensorsFile(path: path), moments([(apart, 1)], site.columns).product, site.columns,
        place)
    }
  }

  /// A few tokens, and more than a batch has of which most are alike, so that they are all routed to the same experts.
  @Test(arguments: [(3, 4), (60, 24)]) func anExpertOfFewTokensIsShrunkTowardsAll(samples: Int, length: Int)
    throws
  {
    let bench = try Workbench(family: FamilyCheckpoint(family), samples: samples, length: length)
    if samples > 3 { try writeLikeTokens(to: bench.corpus, samples, length) }
    try bench.run(recipe(bench, samples: samples, length: length, shrink: 1))
    let routed = try seen(bench, length: length, everyToken: false)
    let all = try seen(bench, length: length, everyToken: true)
    var shrunk = 0
    for (block, site, manifest, path) in try factors(bench) {
      let own = routed[block][site.name] ?? Seen()
      let place = "block \(block), \(site.name)"
      guard site.tokenShare < 1, own.tokens.count < site.columns else {
        try expectFactor(path, [(own.inputs, 1)], columns: site.columns, place)
        #expect(manifest.factorReport?.isShrunk == false)
        continue
      }
      shrunk += 1
      let every = try #require(all[block][site.name])
      let weight = Double(site.columns - own.tokens.count) / Double(samples * length)
      try expectFactor(path, [(own.inputs, 1), (every.inputs, weight)], columns: site.columns, place)
      #expect(manifest.factorReport?.routedTokens == own.tokens.count)
      #expect(manifest.factorReport?.isShrunk == true)
      // As many tokens as the inputs are wide, but for rounding down.
      let tokens = try #require(manifest.factorReport).tokens
      #expect((site.columns - 1...site.columns).contains(tokens), "\(place): \(tokens)")
    }
    #expect(shrunk > 0)
  }

  /// One window of eight different tokens; all others are one token again and again.
  private func writeLikeTokens(to path: String, _ samples: Int, _ length: Int) throws {
    var writer = try SafetensorsWriter(path: path, tensors: [("input_ids", .i32, [samples, length])])
    for sample in 0..<samples {
      try writer.append((0..<Int32(length)).map { sample == 3 ? 7 * ($0 / 3) : 5 })
    }
    try writer.finish()
  }

  @Test func anExpertWithoutTokensIsTold() throws {
    let bench = try Workbench(family: FamilyCheckpoint(family), samples: 1, length: 2)
    let routed = try seen(bench, length: 2, everyToken: false)
    try #require(
      routed.dropFirst().contains { block in (0..<6).contains { block["expert.\($0).mlp"] == nil } })
    let (text, code) = bench.failure {
      try bench.run(recipe(bench, samples: 1, length: 2, shrink: 0))
    }
    #expect(text.contains("no calibration token was routed to this expert") && text.contains("site expert."))
    #expect(text.contains("factor.shrink") && code == 64, "\(text)")
    // With all tokens in their place there is no error.
    try bench.run(recipe(bench, samples: 1, length: 2, shrink: 1), work: "other")
  }

  /// Memory for few Gram matrices at a time: the block streams again and again.
  @Test(arguments: [(60, 24, 0), (3, 4, 1)]) func severalPassesGiveTheSameBytes(
    samples: Int, length: Int, shrink: Int
  ) throws {
    let bench = try Workbench(family: FamilyCheckpoint(family), samples: samples, length: length)
    // Emit needs more memory than all of these factors.
    let recipe = recipe(bench, samples: samples, length: length, shrink: shrink).replacing(
      "  - emit", with: "")
    /// Returns how often a block streams for factors: units that run together begin with the same number of units done.
    func passes(_ memory: Int, _ name: String) throws -> Int {
      let job = try bench.job(recipe, output: name, work: "work-\(name)", memory: memory)
      let begun = Mutex<Set<Int>>([])
      try Runner(job) { event in
        if case .began(let unit, let done, _, _, _, _, _) = event, unit.hasPrefix("factor/") {
          begun.withLock { _ = $0.insert(done) }
        }
      }.run()
      return begun.withLock { $0.count }
    }
    let least = try Planner.plan(bench.job(recipe, work: "plan")).leastMemory
    let (once, often) = (try passes(1 << 30, "large"), try passes(least, "small"))
    #expect(once == 3 && often > 3, "\(once) and \(often) passes")
    func digests(_ name: String) throws -> [Digest: Digest] {
      let store = try ArtifactStore(existing: bench.folder.path + "/work-" + name)
      return Dictionary(
        try store.manifests().map { ($0.key, $0.digest) }, uniquingKeysWith: { first, _ in first })
    }
    let outline = try Model(folder: bench.model).outline
    #expect(try factors(bench, "work-large").count == outline.blocks.flatMap(\.sites).count)
    #expect(try digests("large") == digests("small"))
  }
}
