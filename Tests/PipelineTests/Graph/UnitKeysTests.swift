import EspalierCore
import EspalierIO
import EspalierTestSupport
import Foundation
import Testing

@testable import EspalierPipeline

@Suite struct UnitKeysTests {
  /// The key of every unit, by name; digests of inputs are given by `content`.
  private func keys(_ job: Job, content: (Int) -> String = { "\($0)" }) throws -> [String: Digest] {
    let graph = try UnitGraph(recipe: job.recipe, model: job.model)
    let keys = UnitKeys(job: job, graph: graph)
    return Dictionary(
      try graph.units.enumerated().map { index, unit in
        (unit.id, UnitKeys.key(try keys.components(index) { SHA256.digest(of: content($0)) }))
      }, uniquingKeysWith: { first, _ in first })
  }

  /// The units whose keys differ.
  private func changed(_ before: [String: Digest], _ after: [String: Digest]) -> Set<String> {
    #expect(before.count == after.count)
    return Set(before.filter { after[$0.key] != $0.value }.map(\.key))
  }

  private func stages(_ units: Set<String>) -> [String] {
    Set(units.map { $0.hasSuffix("/embed") ? "embed" : String($0.prefix { $0 != "/" }) }).sorted()
  }

  @Test func everyUnitHasItsOwnKey() throws {
    let bench = try ProbeBench()
    let keys = try keys(bench.job())
    #expect(keys.count == 21 && Set(keys.values).count == 21)
    #expect(try self.keys(bench.job()) == keys)
  }

  /// A parameter is in the keys of its own stage; parameters of the source are also in the keys of sites.
  @Test(arguments: [
    ("words.samples=3", ["words"]), ("words.length=9", ["words"]), ("words.seed=1", ["words"]),
    ("words.draw=consecutive", ["words"]),
    ("stream.scale=2", ["embed", "stream", "sum"]), ("stream.propagate=dense", ["embed", "stream", "sum"]),
    ("stream.memory=2", ["embed", "stream", "sum"]), ("sum.keep=true", ["sum"]),
    ("first.share=0.5", ["first"]),
    ("better.rounds=4", ["better"]), ("stream.codec=lz4", []), ("stream.scale=1.0", []), ("first.share=", []),
    ("words.samples=2", []),
  ])
  func parametersThatDecideResultsAreInKeys(override: String, expected: [String]) throws {
    let bench = try ProbeBench()
    // In a dense graph, `stream/0` and the masks have other inputs; equal digests leave only the parameters.
    let before = try keys(bench.job()) { _ in "" }
    let after = try keys(bench.job(overrides: [override])) { _ in "" }
    #expect(stages(changed(before, after)) == expected)
  }

  /// Machines that compute differently do not take each other's artifacts; texts and the output depend on their inputs alone.
  @Test(arguments: [
    Arithmetic(bf16: "", fusesMultiplyAdd: false, blas: "test"),
    Arithmetic(bf16: "", fusesMultiplyAdd: true, blas: "another"),
  ])
  func arithmeticIsInTheKeysOfWhatIsComputed(_ other: Arithmetic) throws {
    let bench = try ProbeBench()
    let before = try keys(bench.job()) { _ in "" }
    let after = try keys(bench.job(arithmetic: other)) { _ in "" }
    #expect(stages(changed(before, after)) == ["better", "embed", "first", "score", "stream", "sum"])
  }

  @Test func nothingElseIsInKeys() throws {
    let bench = try ProbeBench()
    let before = try keys(bench.job())
    let moved = bench.folder.path + "/elsewhere"
    try FileManager.default.copyItem(atPath: bench.model, toPath: moved)
    try FileManager.default.copyItem(atPath: bench.corpus, toPath: bench.corpus + "2")
    let elsewhere = try bench.job(
      overrides: ["words.corpus=\(bench.corpus)2"], output: "o", work: "w", memory: 1 << 40, threads: 64)
    let job = try Job(
      recipe: elsewhere.recipe, checkpoint: Checkpoint(folder: moved), model: elsewhere.model,
      output: bench.folder.path + "/o",
      work: elsewhere.work, memory: elsewhere.memory, device: elsewhere.device,
      arithmetic: elsewhere.arithmetic)
    #expect(try keys(job) == before)
    // An id is a name, not content.
    let named = try keys(bench.job(ProbeBench.recipe.replacing("- better", with: "- better: {id: more}")))
    #expect(Set(named.values) == Set(before.values))
    // Comments and the order of keys are not content.
    let shuffled = ProbeBench.recipe.replacing(
      "{corpus: CORPUS, length: 8}", with: "{length: 8, samples: 2, corpus: CORPUS} # .")
    #expect(try keys(bench.job(shuffled)) == before)
  }

  @Test func revisionsOfStagesAreInTheirKeys() throws {
    let bench = try ProbeBench()
    let before = try keys(bench.job())
    let after = try Probe.$betterRevision.withValue(2) { try keys(bench.job()) }
    let units = changed(before, after)
    #expect(stages(units) == ["better"] && units.count == 6)
  }

  @Test func theTextIsInTheKeyOfItsReader() throws {
    let bench = try ProbeBench()
    let before = try keys(bench.job())
    try Folder.writeAtomically(Array("once upon a Time".utf8), to: bench.corpus)
    #expect(try changed(before, keys(bench.job())) == ["words"])
  }

  @Test func theConfigurationIsInKeysOfWhatComputesWithIt() throws {
    let bench = try ProbeBench()
    let before = try keys(bench.job())
    let path = bench.model + "/config.json"
    let members = try #require(try Folder.readJSON(path).object?.members)
    // The same values in another order are the same configuration.
    try Folder.writeAtomically(Array(JSON.object(JSONObject(members.reversed())).text.utf8), to: path)
    #expect(try keys(bench.job()) == before)
    try Folder.writeAtomically(
      Array(JSON.object(JSONObject(members + [(key: "rope", value: 2)])).text.utf8), to: path)
    #expect(try stages(changed(before, keys(bench.job()))) == ["embed", "stream", "sum", "write"])
  }

  /// If one element of a tensor changes, the keys of exactly the units that read it change.
  @Test(arguments: [
    ("model.embed_tokens.weight", ["stream/embed", "write"]), ("model.norm.weight", ["write"]),
    (
      "model.layers.1.mlp.down_proj.weight",
      [
        "better/model.layers.1.mlp.down_proj", "first/model.layers.1.mlp.down_proj", "sum/1/attention",
        "sum/1/down", "write",
      ]
    ),
    ("model.layers.0.input_layernorm.weight", ["stream/0", "sum/0/attention", "sum/0/down", "write"]),
    ("model.layers.1.mlp.up_proj.weight", ["sum/1/attention", "sum/1/down", "write"]),
  ])
  func tensorsAreInKeysOfTheirReaders(tensor: String, expected: [String]) throws {
    let bench = try ProbeBench()
    let before = try keys(bench.job())
    var checkpoint = ProbeBench.checkpoint
    checkpoint.edit = { name, values in if name == tensor { values[3] += 1 } }
    let other = try ProbeBench(checkpoint)
    #expect(try changed(before, keys(other.job())).sorted() == expected)
  }

  /// The same values in another type are other tensors.
  @Test func typesAreInKeys() throws {
    var half = ProbeBench.checkpoint
    half.edit = { _, values in values = values.map { _ in 0 } }
    var brain = half
    (half.dtype, brain.dtype) = (.f16, .bf16)
    let benches = try (ProbeBench(half), ProbeBench(brain))
    let units = try changed(keys(benches.0.job()), keys(benches.1.job()))
    #expect(stages(units) == ["better", "embed", "first", "stream", "sum", "write"])
  }

  /// Changes the content of each input in turn.
  @Test func digestsOfInputsAreInKeysOfTheirReaders() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    let graph = try UnitGraph(recipe: job.recipe, model: job.model)
    let before = try keys(job)
    for input in graph.units.indices {
      let after = try keys(job) { $0 == input ? "other" : "\($0)" }
      #expect(changed(before, after) == Set(graph.readers[input].map { graph.units[$0].id }))
    }
    let keys = UnitKeys(job: job, graph: graph)
    let error = failure { _ = try keys.components(1) { _ in nil } }
    #expect(error?.code == .internalFault)
  }

  /// The components that `explain` compares.
  @Test func componentsAreNamed() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    let graph = try UnitGraph(recipe: job.recipe, model: job.model)
    let keys = UnitKeys(job: job, graph: graph)
    let index = try #require(graph.index(of: "better/model.layers.1.mlp.down_proj"))
    let components = try keys.components(index) { SHA256.digest(of: "\($0)") }
    #expect(
      components.object?.members.map(\.key) == [
        "stage", "revision", "parameters", "place", "inputs", "arithmetic", "tensors",
      ])
    #expect(components["place"]?.string == "model.layers.1.mlp.down_proj.weight")
    #expect(
      components["inputs"]?.object?.members.map(\.key) == [
        "factor block 1 site 1", "mask model.layers.1.mlp.down_proj.weight",
      ])
    #expect(components["parameters"]?.text == #"{"rounds":3,"targets":["model"]}"#)
    let words = try keys.components(0) { _ in nil }
    #expect(words["files"]?["corpus"]?.string == (try SHA256.digest(ofFile: bench.corpus).hex))
    #expect(!words.text.contains(bench.folder.path))
  }
}

@Suite struct SourceDigestsTests {
  private let bench: ProbeBench
  private let tensor = "model.layers.0.mlp.down_proj.weight"
  private var cache: String { bench.folder.path + "/sources.json" }

  init() throws {
    bench = try ProbeBench()
    try ArtifactStore(unprepared: bench.folder.path).prepare()
  }

  private func digests() throws -> SourceDigests {
    SourceDigests(checkpoint: try Checkpoint(folder: bench.model), work: bench.folder.path)
  }

  /// Writes wrong digests with the right identities, which a reader of the cache believes.
  private func poison() throws -> Digest {
    let poison = SHA256.digest(of: "poison")
    let json = try Folder.readJSON(cache)
    let members = try #require(json.opened()?["finiteSources"]?.object?.members).map { file, value in
      let names = value["digests"]?.object?.members.map(\.key) ?? []
      return (
        key: file,
        value: [
          "identity": value["identity"] ?? .null,
          "digests": .object(JSONObject(names.map { (key: $0, value: .string(poison.hex)) })),
        ] as JSON
      )
    }
    let forged = (["finiteSources": .object(JSONObject(members))] as JSON).sealed()
    try Folder.writeAtomically(Array(forged.text.utf8), to: cache)
    return poison
  }

  @Test func digestsAreTakenFromTheCacheWhileTheFileIsTheSame() throws {
    let first = try digests()
    let (tensor, file) = try (first.tensor(tensor), first.file(bench.corpus))
    #expect(file == (try SHA256.digest(ofFile: bench.corpus)))
    try first.save()
    let again = try digests()
    #expect(try again.tensor(self.tensor) == tensor && again.file(bench.corpus) == file)
    let poison = try poison()
    #expect(try digests().tensor(self.tensor) == poison && digests().file(bench.corpus) == poison)
    // A digest that is not in the cache is computed.
    #expect(try digests().tensor("model.norm.weight") != poison)
  }

  @Test func changedFilesAreReadAgain() throws {
    let first = try digests()
    let (tensor, other, file) = try (
      first.tensor(tensor), first.tensor("model.norm.weight"), first.file(bench.corpus)
    )
    try first.save()
    let poison = try poison()
    var checkpoint = ProbeBench.checkpoint
    checkpoint.edit = { name, values in if name == self.tensor { values[0] += 1 } }
    // The clock of a file system may be coarse.
    Thread.sleep(forTimeInterval: 0.02)
    try checkpoint.write(to: bench.model)
    let second = try digests()
    let changed = try second.tensor(self.tensor)
    #expect(changed != tensor && changed != poison)
    #expect(try second.tensor("model.norm.weight") == other)
    // The text has not changed, so its digest in the cache is used.
    #expect(try second.file(bench.corpus) == poison)
    // The same length and the same file; only the time differs.
    Thread.sleep(forTimeInterval: 0.02)
    try File(writing: bench.corpus).write(Array("O".utf8), at: 0)
    let third = try digests()
    #expect(try third.file(bench.corpus) == SHA256.digest(of: "Once upon a time"))
    #expect(try third.file(bench.corpus) != file)
  }

  /// Digests are saved soon, but not all of them after each new one.
  @Test func digestsAreWrittenSparingly() throws {
    var mixture = MixtureCheckpoint()
    (mixture.blocks, mixture.experts) = (8, 16)
    try mixture.write(to: bench.folder.path + "/mixture")
    let checkpoint = try Checkpoint(folder: bench.folder.path + "/mixture")
    let digests = SourceDigests(checkpoint: checkpoint, work: bench.folder.path)
    var (sizes, written) = (Set<Int>(), 0)
    for (count, name) in checkpoint.tensors.keys.sorted().enumerated() {
      _ = try digests.tensor(name)
      try digests.save(sparingly: true)
      if try sizes.insert(Folder.entry(cache)?.size ?? 0).inserted { written = count + 1 }
      #expect(count + 1 - written <= (count + 1) / 16)
    }
    #expect(checkpoint.tensors.count == 459 && sizes.count < 100)
    try digests.save()
    let saved = try Folder.readJSON(cache).opened()?["finiteSources"]?.object?.members ?? []
    #expect(saved.reduce(0) { $0 + ($1.value["digests"]?.object?.members.count ?? 0) } == 459)
  }

  /// A source must be unchanged when its unit is done, whether its digest was computed or in the cache.
  @Test func filesThatChangeDuringARunAreFound() throws {
    let before = try digests()
    let digest = try before.tensor(tensor)
    _ = try before.file(bench.corpus)
    try before.requireSameFiles()
    Thread.sleep(forTimeInterval: 0.02)
    // A new file under the old name: the old bytes are still mapped, and are hashed.
    var checkpoint = ProbeBench.checkpoint
    checkpoint.edit = { name, values in if name == self.tensor { values[0] += 1 } }
    try Folder.remove(bench.model + "/model.safetensors")
    try checkpoint.write(to: bench.model)
    #expect(try before.tensor(tensor) == digest)
    let norm = try before.tensor("model.norm.weight")
    let error = failure { try before.requireSameFiles() }
    #expect(error?.code == .io && error?.subject == bench.model + "/model.safetensors")
    // Their digests are not saved for the new file.
    try before.save()
    let after = try digests()
    #expect(try after.tensor(tensor) != digest && after.tensor("model.norm.weight") == norm)
    try Folder.remove(bench.corpus)
    #expect(failure { try before.requireSameFiles() }?.message.contains("gone") == true)
  }

  /// A flipped bit in the cache must not lead to a wrong key.
  @Test func everyFlippedByteOfTheCacheIsNoticed() throws {
    let first = try digests()
    let expected = try (first.tensor(tensor), first.file(bench.corpus))
    try first.save()
    let good = try Folder.read(cache)
    for place in good.indices {
      var bad = good
      bad[place] ^= 0x01
      try File(writing: cache).write(bad, at: 0)
      let again = try digests()
      #expect(try again.tensor(tensor) == expected.0 && again.file(bench.corpus) == expected.1)
    }
  }

  @Test func aDamagedCacheIsNoHarm() throws {
    let first = try digests()
    let tensor = try first.tensor(tensor)
    try first.save()
    let good = try Folder.read(cache)
    for bad in [
      [], Array("{".utf8), Array("[1, 2]".utf8), Array(good.dropLast(9)), [0xFF, 0xFE, 0],
      Array("{\"/x\": 7}".utf8),
      Array(String(decoding: good, as: UTF8.self).replacing("digests", with: "d").utf8),
      Array(String(decoding: good, as: UTF8.self).replacing("identity\":\"", with: "identity\":\"9").utf8),
    ] as [[UInt8]] {
      try Folder.writeAtomically(bad, to: cache)
      #expect(try digests().tensor(self.tensor) == tensor)
    }
    let again = try digests()
    _ = try again.tensor(self.tensor)
    try again.save()
    #expect(try Folder.read(cache) == good)
  }

  @Test func missingThingsAreTold() throws {
    let digests = try digests()
    #expect(failure { _ = try digests.tensor("no.such") }?.description.contains("no.such is missing") == true)
    #expect(failure { _ = try digests.file(bench.folder.path + "/none") }?.code == .io)
    // A tied head is not in the checkpoint and is left out.
    #expect(try digests.tensors(["model.norm.weight", "no.such"]) == digests.tensors(["model.norm.weight"]))
    #expect(try digests.tensors(["model.norm.weight"]) != digests.tensors([]))
  }
}
