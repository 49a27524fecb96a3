import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Testing

/// Whole runs on tiny checkpoints.
@Suite(.serialized) struct PruningTests {
  @Test(
    arguments: [
      "{sparsity: 0.5}", "{method: ria, sparsity: 0.6}", "{method: magnitude, sparsity: 0.3}",
      "{keep: 2, of: 4}", "{keep: 1, of: 8}", "{keep: 5, of: 8, method: ria}",
    ],
    [(DType.f32, 1), (.bf16, 3), (.f16, 2)])
  func onlyPrunedWeightsChangeAndCountsAreExact(start: String, storage: (dtype: DType, shards: Int)) throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.dtype = storage.dtype
    checkpoint.shards = storage.shards
    let bench = try Workbench(checkpoint)
    try bench.write("kept", to: bench.model + "/LICENSE")
    let output = try bench.run(bench.recipe("warmStart: \(start)", "swap"))
    let (before, after) = (try Checkpoint(folder: bench.model), try Checkpoint(folder: output))
    let outline = try Model(folder: output).outline
    let record = try OutputRecord(folder: output)
    #expect(record.matrices.count == 14 && after.tensors.count == before.tensors.count)
    for (name, tensor) in before.tensors {
      let (old, new) = (try tensor.dense(), try #require(after.tensors[name]).dense())
      guard let matrix = outline.matrices.first(where: { $0.tensor == name }) else {
        #expect(try old.digest() == new.digest(), "\(name) changed")
        continue
      }
      let pattern = try #require(record.matrices.first { $0.name == name }).pattern
      let w = try LinearWeight(old).matrix(0..<matrix.rows)
      let z = try LinearWeight(new).matrix(0..<matrix.rows)
      var mask = Mask(rows: matrix.rows, columns: matrix.columns, pattern: pattern)
      var wrong = 0
      for row in 0..<matrix.rows {
        for column in 0..<matrix.columns {
          mask[row, column] = z[row, column] != 0
          wrong += z[row, column].bitPattern == 0 || z[row, column] == w[row, column] ? 0 : 1
        }
      }
      #expect(wrong == 0)
      #expect(mask.firstRowOffPattern() == nil)
    }
    for name in ["config.json", "tokenizer.json", "generation_config.json", "LICENSE"] {
      #expect(
        try SHA256.digest(ofFile: bench.model + "/" + name) == SHA256.digest(ofFile: output + "/" + name))
    }
    #expect(try Verification(folder: output, on: device).findings.isEmpty)
    #expect(try Verification(folder: bench.folder.path + "/work", on: device).findings.isEmpty)
  }

  /// The format asks for no alignment: tensors may begin at any byte.
  @Test(arguments: [DType.f32, .bf16, .f16], [1, 2]) func tensorsMayLieAnywhere(dtype: DType, shift: Int)
    throws
  {
    var checkpoint = TinyCheckpoint()
    checkpoint.dtype = dtype
    let bench = try Workbench(checkpoint)
    let recipe = bench.recipe("warmStart: {keep: 2, of: 4}", "swap", "reconstruct")
    func digests(_ output: String) throws -> [String: Digest] {
      let checkpoint = try Checkpoint(folder: try bench.run(recipe, output: output, work: output + ".work"))
      return try checkpoint.tensors.mapValues { try $0.dense().digest() }
    }
    let expected = try digests("usual")
    let shard = bench.model + "/model.safetensors"
    let file = try Folder.read(shard)
    let length = file.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
    #expect(length % 4 == 0)
    try Folder.writeAtomically(
      (0..<8).map { UInt8(truncatingIfNeeded: (length + shift) >> ($0 * 8)) } + file[8..<8 + length]
        + [UInt8](repeating: 0x20, count: shift) + file[(8 + length)...], to: shard)
    #expect(try digests("shifted") == expected)
  }

  @Test func swapsLowerTheLossOfEveryMatrixAndTheReportSaysSo() throws {
    let bench = try Workbench()
    try bench.run(bench.recipe("warmStart: {sparsity: 0.5}", "swap: {id: few, maxSwaps: 1}", "swap"))
    let report = try RunReport(work: bench.folder.path + "/work")
    #expect(report.matrices.count == 14 && report.history.state == .finished)
    for matrix in report.matrices {
      #expect(matrix.steps.map(\.stage) == ["warmStart", "few", "swap"])
      let (warm, few, swap) = (matrix.steps[0].report, matrix.steps[1].report, matrix.steps[2].report)
      let start = try #require(warm.lossAfter)
      #expect(abs(try #require(few.lossBefore) / start - 1) < 1e-5)
      #expect(
        try #require(few.lossAfter) <= start
          && #require(swap.lossAfter) <= #require(few.lossAfter) * (1 + 1e-5))
    }
    let total = try #require(report.totals.first { $0.stage == "swap" })
    #expect(total.matrices == 14 && (total.swaps ?? 0) > 0 && (total.meanReduction ?? 0) > 0)
  }

  /// The masks of a whole run against a forward pass and Gram matrices computed here in f64, block by block.
  @Test(arguments: ["pruned", "dense"], [[], ["reconstruct"]])
  func blocksSeeWhatPropagationSays(propagate: String, more: [String]) throws {
    let bench = try Workbench()
    let stages = (["warmStart: {sparsity: 0.5}"] + more).joined(separator: "\n  - ")
    let output = try bench.run(bench.recipe(stages, capture: "{propagate: \(propagate)}"))
    let outline = try Model(folder: bench.model).outline
    let dense = try ReferenceLlama(folder: bench.model)
    let pruned = try ReferenceLlama(folder: output)
    let windows = try tokens(bench)
    var checked = 0
    for block in outline.blocks.indices {
      var hidden = dense.embed(Array(windows.joined()))
      for earlier in 0..<block {
        (propagate == "pruned" ? pruned : dense).forward(block: earlier, &hidden, length: 24) { _, _, _ in }
      }
      try dense.forward(block: block, &hidden, length: 24) { site, inputs, _ in
        let norms = inputs[0].indices.map { column in
          inputs.reduce(0) { $0 + $1[column] * $1[column] }.squareRoot()
        }
        for matrix in outline.blocks[block].sites.first(where: { $0.name == site })?.matrices ?? [] {
          let weight = try #require(dense.weights[matrix.tensor])
          let found = try #require(pruned.weights[matrix.tensor])
          for (weights, kept) in zip(weight, found) {
            // Wanda: of each row the half with the largest |w| * norm stays; f32 may decide between equals.
            let scores = zip(weights, norms).map { abs($0) * $1 }
            let (stayed, gone) = (
              kept.indices.filter { kept[$0] != 0 }, kept.indices.filter { kept[$0] == 0 }
            )
            #expect(gone.count == matrix.columns / 2)
            let (least, most) = (stayed.map { scores[$0] }.min() ?? 0, gone.map { scores[$0] }.max() ?? 0)
            #expect(least >= most * (1 - 1e-5), "\(matrix.module)")
            checked += 1
          }
        }
      }
    }
    #expect(checked == outline.matrices.reduce(0) { $0 + $1.rows })
  }

  private func tokens(_ bench: Workbench) throws -> [[Int32]] {
    // Every byte is a token, its id one more than its place in the alphabet; the file that the stage wrote is read instead.
    let store = try ArtifactStore(existing: bench.folder.path + "/work")
    for manifest in try store.manifests() {
      guard let object = manifest.objects.first(where: { $0.path == "tokens.safetensors" }) else { continue }
      let tensor = try SafetensorsFile(path: store.path(manifest.key, object.path)).tensor("input_ids")
      let ids = try tensor.integers()
      return (0..<tensor.shape[0]).map { Array(ids[$0 * tensor.shape[1]..<($0 + 1) * tensor.shape[1]]) }
    }
    return []
  }

  @Test func aSecondRunReusesEverythingAndASweepReusesWhatIsTheSame() throws {
    let bench = try Workbench()
    let first = bench.recipe("warmStart: {sparsity: 0.5}", "swap", capture: "{propagate: dense}")
    let computed = try bench.computedUnits(first)
    // tokens, embedding and hidden states of one block, 8 factors, 14 masks twice, the output
    #expect(computed.count == 1 + 2 + 8 + 28 + 1)
    #expect(try bench.computedUnits(first).isEmpty)
    // Another sparsity needs other masks, but with dense propagation the same factors.
    let second = try bench.computedUnits(
      bench.recipe("warmStart: {sparsity: 0.6}", capture: "{propagate: dense}"), output: "other")
    #expect(second.count == 14 + 1 && second.allSatisfy { $0.hasPrefix("warmStart") || $0 == "emit" })
    // A longer chain on the first masks adds its own stage only.
    let third = try bench.computedUnits(
      bench.recipe("warmStart: {sparsity: 0.5}", "swap", "swap: {id: again}", capture: "{propagate: dense}"),
      output: "third")
    #expect(third.count == 14 + 1 && third.allSatisfy { $0.hasPrefix("again") || $0 == "emit" })
  }

  @Test func threadsMemoryAndCodecsNeverChangeAByte() throws {
    let bench = try Workbench()
    var digests: [[String: String]] = []
    for (index, (threads, capture)) in [(1, "{}"), (2, "{codec: zstd}"), (5, "{codec: lz4}")].enumerated() {
      let recipe = bench.recipe("warmStart: {keep: 2, of: 4}", "swap", capture: capture)
      let job = try bench.job(
        recipe, output: "out\(index)", work: "work\(index)", memory: 1 << (28 + index),
        device: Device(threads: threads))
      try Runner(job) { _ in }.run()
      digests.append(
        try bench.digest(job.outputs[0].path).filter { $0.key != "recipe.yaml" && $0.key != "espalier.json" })
    }
    #expect(digests[0] == digests[1] && digests[0] == digests[2])
  }

  @Test func factorsThatTheMemoryDoesNotHoldTogetherAreMadeOneByOne() throws {
    let bench = try Workbench()
    let recipe = bench.recipe("warmStart: {keep: 2, of: 4}", "swap")
    let roomy = try bench.run(recipe)
    let plan = try Planner.plan(try bench.job(recipe, output: "tight"))
    let job = try bench.job(recipe, output: "tight", work: "tight.work", memory: plan.leastMemory)
    try Runner(job) { _ in }.run()
    #expect(
      try bench.digest(roomy)["model.safetensors"] == bench.digest(job.outputs[0].path)["model.safetensors"])
  }

  /// Killed between the move of the output folder and the manifest: the folder is recognised, unless it was changed.
  @Test func anOutputWithoutManifestIsRecognised() throws {
    let bench = try Workbench()
    let recipe = bench.recipe("warmStart: {sparsity: 0.5}")
    let output = try bench.run(recipe)
    let before = try bench.digest(output)
    let store = try ArtifactStore(existing: bench.folder.path + "/work")
    let emitted = try #require(
      try store.manifests().first { $0.objects.contains { $0.path == "output.json" } })
    let manifest = "\(store.folder)/manifests/\(emitted.key.hex.prefix(2))/\(emitted.key.hex).json"
    try Folder.remove(manifest)
    #expect(try bench.computedUnits(recipe) == ["emit"])
    #expect(try bench.digest(output) == before)
    try Folder.remove(manifest)
    try bench.write("changed", to: output + "/generation_config.json")
    // What is not as it was written is set aside, not overwritten.
    _ = try bench.run(recipe)
    #expect(try bench.digest(output) == before)
    #expect(try Folder.entry(output + ".damaged/generation_config.json")?.size == 7)
  }

  /// Two models in one work folder are measured each on its own.
  @Test func evaluationsBelongToTheirModel() throws {
    let bench = try Workbench()
    let last = "  - evaluate: {text: \"\(bench.corpus)\", length: 32, windows: 5}"
    var perplexities: [Double] = []
    for sparsity in ["0.2", "0.7"] {
      try bench.run(bench.recipe("warmStart: {sparsity: \(sparsity)}", last: last), output: "out-\(sparsity)")
      let report = try RunReport(work: bench.folder.path + "/work")
      perplexities.append(try #require(report.json["perplexities"]?["pruned"]?.double))
    }
    #expect(perplexities[0] != perplexities[1])
  }

  @Test func targetsAndIgnoreChooseMatrices() throws {
    let bench = try Workbench()
    let output = try bench.run(
      bench.recipe(
        "warmStart: {id: mlp, sparsity: 0.5, targets: [\"re:.*\\\\.mlp\\\\.\"], ignore: [down_proj]}",
        "warmStart: {id: attention, keep: 2, of: 4, targets: [q_proj, model.layers.0.self_attn.o_proj]}",
        "swap"))
    let record = try OutputRecord(folder: output)
    let patterns = Dictionary(
      record.matrices.map { ($0.name, $0.pattern.description) }, uniquingKeysWith: { first, _ in first })
    #expect(patterns.count == 4 + 3)
    #expect(
      patterns["model.layers.1.mlp.up_proj.weight"] == "50%"
        && patterns["model.layers.0.self_attn.o_proj.weight"] == "2:4")
    #expect(
      patterns["model.layers.1.self_attn.o_proj.weight"] == nil
        && patterns["model.layers.0.mlp.down_proj.weight"] == nil)
  }

  @Test func magnitudeNeedsNoCalibration() throws {
    let bench = try Workbench()
    let output = try bench.run("stages: [{warmStart: {method: magnitude, sparsity: 0.5}}, emit]")
    #expect(try OutputRecord(folder: output).matrices.count == 14)
  }

  @Test func tiedEmbeddingsMayStandUnderEitherName() throws {
    var outputs: [String?] = []
    for missing in ["lm_head.weight", "model.embed_tokens.weight"] {
      var checkpoint = TinyCheckpoint()
      checkpoint.configuration = { members in
        members.removeAll { $0.key == "tie_word_embeddings" }
        members.append(("tie_word_embeddings", true))
      }
      let shared = SeededRandom(seed: 99)
      checkpoint.edit = { name, values in
        var random = shared
        if name == "lm_head.weight" || name == "model.embed_tokens.weight" {
          values = random.normals(values.count)
        }
      }
      checkpoint.reshape = { name, shape in name == missing ? nil : shape }
      let bench = try Workbench(checkpoint)
      let logits = try Model(folder: bench.model).logits([1, 2, 3, 4], length: 4, on: device).array()
      #expect(logits.count == 4 * 260 && logits.allSatisfy(\.isFinite))
      let output = try bench.run(bench.recipe("warmStart: {sparsity: 0.5}"))
      outputs.append(try OutputRecord(folder: output).matrices.first?.name)
      #expect(try Checkpoint(folder: output).tensors[missing] == nil)
    }
    #expect(outputs == ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.weight"])
  }
}
