import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Testing

/// With `propagate: sites` each site sees what was pruned before it in its own block, and targets may be those of the dense model.
@Suite(.serialized) struct SitesInTurnTests {
  private typealias Rows = ReferenceLlama.Rows

  /// Inputs of the sites and the hidden states at that place, by block and site, computed in f64.
  private struct Seen {
    var inputs: [String: Rows] = [:]
    var hidden: [String: Rows] = [:]
  }

  private func seen(_ model: ReferenceLlama, _ windows: [[Int32]], blocks: Int) -> Seen {
    var seen = Seen()
    var hidden = model.embed(Array(windows.joined()))
    for block in 0..<blocks {
      model.forward(block: block, &hidden, length: windows[0].count) { site, inputs, hidden in
        seen.inputs["\(block)/\(site)"] = inputs
        seen.hidden["\(block)/\(site)"] = hidden
      }
    }
    return seen
  }

  /// The sum over the tokens of `a_i b_j`.
  private func product(_ a: Rows, _ b: Rows) -> Rows {
    a[0].indices.map { i in b[0].indices.map { j in zip(a, b).reduce(0) { $0 + $1.0[i] * $1.1[j] } } }
  }

  private func difference(_ a: Rows, _ b: Rows) -> Rows { zip(a, b).map { zip($0, $1).map { $0 - $1 } } }

  private func expectEqual(_ found: [Float], _ expected: Rows, _ name: String) {
    let expected = Array(expected.joined())
    guard found.count == expected.count else {
      Issue.record("\(name) has \(found.count) elements, not \(expected.count)")
      return
    }
    let scale = expected.reduce(0) { max($0, abs($1)) }
    let worst = zip(found, expected).reduce(0) { max($0, abs(Double($1.0) - $1.1)) }
    #expect(scale > 0 && worst <= 2e-4 * scale, "\(name) is off by \(worst) of \(scale)")
  }

  /// The factors of a run, by `block/site`.
  private func factors(_ bench: Workbench) throws -> [String: SafetensorsFile] {
    let work = bench.folder.path + "/work"
    let store = try ArtifactStore(existing: work)
    var files: [String: SafetensorsFile] = [:]
    for line in try String(decoding: Folder.read(work + "/events.jsonl"), as: UTF8.self).split(
      separator: "\n")
    {
      let event = try JSON(parsing: String(line))
      guard let unit = event["unit"]?.string, unit.hasPrefix("factor/"),
        let key = event["key"]?.string.flatMap(Digest.init(hex:))
      else { continue }
      files[String(unit.dropFirst("factor/".count))] = try SafetensorsFile(
        path: store.path(key, "factor.safetensors"))
    }
    return files
  }

  /// Gram matrices, cross-products and the stream's errors of a whole run, against a forward pass in f64 of the model that came out:
  /// what a site sees depends only on matrices before it, which have their last masks by then.
  @Test(arguments: ["pruned", "dense", "residual", "pruned relative", "residual relative"], [0, 0.34])
  func factorsAreThoseOfTheModelThatComesOut(kind: String, holdOut: Double) throws {
    let (target, isRelative) = (String(kind.prefix { $0 != " " }), kind.hasSuffix("relative"))
    let bench = try Workbench()
    let output = try bench.run(
      bench.recipe(
        "warmStart: {sparsity: 0.5}", "swap: {holdOut: \(holdOut)}",
        capture: "{propagate: sites}",
        factor:
          "{keep: always, target: \(target), repair: 0.25, errors: \(isRelative ? "relative" : "absolute")}"))
    let outline = try Model(folder: bench.model).outline
    let windows = try tokens(bench)
    // Sequence i is held out if the integer part of i times the share grows.
    let isHeldOut = windows.indices.map { Int(Double($0 + 1) * holdOut) > Int(Double($0) * holdOut) }
    #expect(isHeldOut.contains(true) == (holdOut > 0))
    let denseModel = try ReferenceLlama(folder: bench.model)
    let (own, dense) = (
      seen(try ReferenceLlama(folder: output), windows, blocks: 2), seen(denseModel, windows, blocks: 2)
    )
    let files = try factors(bench)
    #expect(files.count == 8)
    for (name, file) in files {
      let names = Set(file.header.tensors.map(\.name))
      for part in holdOut > 0 ? [false, true] : [false] {
        func rows(_ all: Rows?) throws -> Rows {
          try #require(all).enumerated().filter { isHeldOut[$0.offset / windows[0].count] == part }.map(
            \.element)
        }
        func found(_ tensor: String) throws -> [Float] {
          try file.tensor((part ? "heldOut." : "") + tensor, dtype: .f32).floats().array()
        }
        // Only these two add to the hidden states.
        let isAdded = name.hasSuffix("output") || name.hasSuffix("down")
        func weighted(_ all: Rows) throws -> Rows {
          guard isRelative && isAdded else { return all }
          return zip(all, try rows(own.hidden[name])).map { row, hidden in
            let size = (hidden.reduce(0) { $0 + $1 * $1 } / Double(hidden.count)).squareRoot()
            return row.map { $0 / size }
          }
        }
        let x = try weighted(rows(own.inputs[name]))
        expectEqual(
          try file.tensor(part ? "heldOut" : "gram", dtype: .f32).floats().array(), product(x, x), name)
        #expect(names.contains("cross") == (target != "pruned" && !isAdded))
        #expect(names.contains("outputs") == (target != "pruned" && isAdded))
        #expect(!names.contains("residual"))
        guard target != "pruned" else { continue }
        let share = target == "dense" ? 0.25 : 0.125
        if isAdded {
          // The outputs of the dense model times the share of the inputs, and a quarter of the error of the hidden states.
          let layer = name.hasSuffix("output") ? "self_attn.o_proj" : "mlp.down_proj"
          let outputs = denseModel.product(
            try rows(dense.inputs[name]), "model.layers.\(name.prefix(1)).\(layer).weight")
          let error = try difference(rows(dense.hidden[name]), rows(own.hidden[name]))
          let expected = zip(outputs, error).map {
            zip($0, $1).map { $0 * share + $1 * (target == "dense" ? 0 : 0.25) }
          }
          expectEqual(try found("outputs"), product(try weighted(expected), x), "\(name) outputs")
          continue
        }
        let change = try weighted(difference(rows(dense.inputs[name]), rows(own.inputs[name])))
        // Before the first site, both models are the same.
        if name == "0/attention" {
          #expect(try found("cross").allSatisfy { $0 == 0 })
        } else {
          expectEqual(
            try found("cross"), product(x, change).map { $0.map { $0 * share } }, "\(name) cross")
        }
      }
      let metadata = Dictionary(uniqueKeysWithValues: file.header.metadata.map { ($0.key, $0.value) })
      #expect(metadata["inputRepair"] == (target == "residual" ? "0.125" : "0.25"))
    }
    #expect(outline.blocks.count == 2)
  }

  @Test func repairsLowerTheErrorOfTheWholeModel() throws {
    let bench = try Workbench()
    let chain = ["warmStart: {sparsity: 0.6}", "swap", "reconstruct"]
    func error(_ name: String, capture: String, factor: String) throws -> Double {
      let recipe = bench.recipe(chain, capture: capture, factor: factor, samples: 60)
      let output = try bench.run(recipe, output: name, work: name + ".work")
      let windows = try tokens(bench, work: name + ".work")
      var (own, dense): (Rows, Rows) = ([], [])
      for (folder, isDense) in [(bench.model, true), (output, false)] {
        let model = try ReferenceLlama(folder: folder)
        var hidden = model.embed(Array(windows.joined()))
        for block in 0..<2 { model.forward(block: block, &hidden, length: windows[0].count) { _, _, _ in } }
        if isDense { dense = hidden } else { own = hidden }
      }
      return difference(own, dense).reduce(0) { $0 + $1.reduce(0) { $0 + $1 * $1 } }
    }
    let usual = try error("usual", capture: "{}", factor: "{}")
    let repaired = try error(
      "repaired", capture: "{propagate: sites}", factor: "{target: residual, repair: 1}")
    #expect(repaired < 0.8 * usual)
  }

  private func tokens(_ bench: Workbench, work: String = "work") throws -> [[Int32]] {
    let store = try ArtifactStore(existing: bench.folder.path + "/" + work)
    for manifest in try store.manifests() {
      guard let object = manifest.objects.first(where: { $0.path == "tokens.safetensors" }) else { continue }
      let tensor = try SafetensorsFile(path: store.path(manifest.key, object.path)).tensor("input_ids")
      let ids = try tensor.integers()
      return (0..<tensor.shape[0]).map { Array(ids[$0 * tensor.shape[1]..<($0 + 1) * tensor.shape[1]]) }
    }
    return []
  }

  /// Families with mixers, mixtures, parallel blocks and latent attention.
  @Test(arguments: [
    "llama", "gpt2", "gptj", "falcon", "gpt_oss", "mixtral", "qwen3_moe-fused", "deepseek_v3", "qwen3_next",
    "lfm2",
    "bert", "gemma2", "bloom-post-norm",
  ])
  func everyFamily(family: String) throws {
    let bench = try Workbench(family: FamilyCheckpoint(family), samples: 6, length: 24)
    var digests: [[String: String]] = []
    for (index, threads) in [1, 3].enumerated() {
      let job = try bench.job(
        bench.recipe(
          "warmStart: {keep: 2, of: 4}", "swap", capture: "{propagate: sites}", factor: "{target: residual}"),
        output: "out\(index)", work: "work\(index)", device: Device(threads: threads))
      try Runner(job) { _ in }.run()
      digests.append(
        try bench.digest(job.outputs[0].path).filter { $0.key != "recipe.yaml" && $0.key != "espalier.json" })
    }
    #expect(digests[0] == digests[1])
    let verification = try Verification(folder: bench.folder.path + "/out0", on: device)
    #expect(verification.findings.isEmpty)
    #expect(verification.checkedMatrices == (try Model(folder: bench.model)).outline.matrices.count)
  }

  /// An allocation measures the dense model, which has nothing to repair: it is the same for every target, and whether its factors
  /// are diagonals or those of the masks.
  @Test(arguments: ["owl", "error", "refit"]) func allocationsMeasureTheDenseModel(method: String) throws {
    let bench = try Workbench()
    let stages = [
      "allocate: {method: \(method), sparsity: 0.5}", "warmStart: {sparsity: allocated}", "swap",
    ]
    let found = try [("sites", "pruned"), ("sites", "residual"), ("dense", "pruned")].map { mode, target in
      let recipe = bench.recipe(
        stages, capture: "{propagate: \(mode)}", factor: "{target: \(target), keep: always}")
      let output = try bench.run(recipe, output: mode + target, work: mode + target + ".work")
      #expect(try Verification(folder: output, on: device).findings.isEmpty)
      return try object("allocation.json", work: bench.folder.path + "/\(mode)\(target).work")
    }
    #expect(found[0] == found[1] && found[0] == found[2] && !found[0].isEmpty)
  }

  /// Rounding may be more than what a layer adds to large hidden states.
  @Test(arguments: [("f32", true), ("bf16", false)]) func roundedStatesAreNotSubtracted(
    spill: String, isSubtracted: Bool
  ) throws {
    let bench = try Workbench()
    try bench.run(
      bench.recipe(
        "warmStart: {sparsity: 0.5}", "swap", capture: "{propagate: sites, spill: \(spill)}",
        factor: "{target: residual, keep: always}"))
    for (name, file) in try factors(bench) where name.hasSuffix("output") || name.hasSuffix("down") {
      let names = Set(file.header.tensors.map(\.name))
      #expect(names.contains("outputs") == isSubtracted)
      #expect(names.isSuperset(of: ["cross", "residual"]) == !isSubtracted)
    }
  }

  /// The first site of a block need not be measured.
  @Test(arguments: ["pruned", "sites"]) func allocationsOfSomeMatrices(propagate: String) throws {
    let bench = try Workbench()
    let targets = "targets: ['re:.*down_proj', 're:.*o_proj']"
    let output = try bench.run(
      bench.recipe(
        "allocate: {sparsity: 0.5, \(targets)}", "warmStart: {sparsity: allocated, \(targets)}", "swap",
        capture: "{propagate: \(propagate)}",
        factor: "{target: \(propagate == "sites" ? "residual" : "dense")}"))
    let verification = try Verification(folder: output, on: device)
    #expect(verification.findings.isEmpty && verification.checkedMatrices == 4)
  }

  /// The bytes of the first artifact's object of that name.
  private func object(_ name: String, work: String) throws -> [UInt8] {
    let store = try ArtifactStore(existing: work)
    let manifest = try #require(try store.manifests().first { $0.objects.contains { $0.path == name } })
    return try Folder.read(store.path(manifest.key, name))
  }

  @Test func whatDoesNotFitTheTargetIsRefused() throws {
    let bench = try Workbench()
    func message(_ stages: [String], capture: String = "{propagate: sites}", factor: String) -> String {
      do {
        try bench.run(bench.recipe(stages, capture: capture, factor: factor))
        return ""
      } catch { return "\(error)" }
    }
    let start = "warmStart: {sparsity: 0.5}"
    #expect(message([start, "dsnot"], factor: "{target: dense}").contains("dsnot knows only"))
    #expect(message([start], capture: "{}", factor: "{target: residual}").contains("propagate=sites"))
    #expect(
      message([start], capture: "{propagate: dense}", factor: "{target: dense}").contains("nothing was"))
    #expect(message([start], factor: "{target: dense, kind: diagonal}").contains("kind: gram"))
    #expect(try Folder.entry(bench.folder.path + "/out") == nil)
  }
}
