import EspalierCore
import EspalierIO
import EspalierModels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Glibc
import Testing

/// Every wrong input ends with an error that names the file and the place, and leaves no output.
@Suite struct BadInputTests {
  /// Runs the usual recipe and expects an error with all of the given parts.
  private func expect(
    _ parts: [String], exit code: Int32, _ checkpoint: TinyCheckpoint = TinyCheckpoint(),
    text: String = TinyCheckpoint.text(4000),
    start: String = "{sparsity: 0.5}", samples: Int = 6, damage: (Workbench) throws -> Void = { _ in }
  ) throws {
    let bench = try Workbench(checkpoint, text: text)
    try damage(bench)
    let (message, exitCode) = bench.failure {
      try bench.run(bench.recipe("warmStart: \(start)", "swap", samples: samples))
    }
    for part in parts { #expect(message.contains(part), "\(message) does not say \(part)") }
    #expect(exitCode == code)
    #expect(try Folder.entry(bench.folder.path + "/out") == nil)
    #expect(try Folder.names(in: bench.folder.path).allSatisfy { !$0.contains(".partial") })
  }

  @Test func aMissingTensor() throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.reshape = { name, shape in name == "model.layers.1.mlp.up_proj.weight" ? nil : shape }
    try expect(["model.layers.1.mlp.up_proj.weight is missing", "/model"], exit: 65, checkpoint)
  }

  @Test func aShapeThatContradictsTheConfiguration() throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.reshape = { name, shape in name == "model.layers.0.self_attn.k_proj.weight" ? [9, 16] : shape }
    try expect(
      [
        "model.layers.0.self_attn.k_proj.weight has shape [9, 16]", "config.json implies [8, 16]",
        "model.safetensors",
      ], exit: 65, checkpoint)
  }

  @Test func aTruncatedShard() throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.shards = 2
    try expect(["model-2.safetensors", "Fetch it again"], exit: 65, checkpoint) { bench in
      let file = try File(writing: bench.model + "/model-2.safetensors")
      try file.resize(to: try file.size() - 10)
    }
  }

  @Test func anUnknownModelType() throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.configuration = { $0[0].value = "lama" }
    try expect(["config.json", "model_type \"lama\" is not known", "llama"], exit: 65, checkpoint)
  }

  @Test func aSettingThatCannotBeComputed() throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.configuration = { $0.append(("hidden_act", "mish")) }
    try expect(["config.json", "hidden_act", "mish"], exit: 65, checkpoint)
    checkpoint.configuration = { $0.append(("rope_scaling", ["rope_type": "spiral", "factor": 4])) }
    try expect(["rope_scaling", "rope_type", "spiral"], exit: 65, checkpoint)
    checkpoint.configuration = { $0[1].value = "sixteen" }
    try expect(["hidden_size must be a positive whole number"], exit: 65, checkpoint)
  }

  @Test func inputsThatTheGroupDoesNotDivide() throws {
    try expect(
      ["model.layers.0.self_attn.q_proj has 16 inputs", "whole groups of 5"], exit: 64,
      start: "{keep: 1, of: 5}")
  }

  @Test func anEmptyOrTooShortText() throws {
    try expect(["corpus.txt", "the text is empty"], exit: 65, text: "")
    try expect(["corpus.txt", "less than one window of 24 tokens"], exit: 65, text: "Too short.")
    try expect(["corpus.txt", "but 1000 are wanted"], exit: 65, samples: 1000)
  }

  @Test func aTextThatIsNotThere() throws {
    try expect(["there is no such file", "corpus.txt", "tokenize.corpus"], exit: 66) {
      try Folder.remove($0.corpus)
    }
  }

  @Test func weightsThatAreNotFinite() throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.edit = { name, values in
      if name == "model.layers.1.mlp.gate_proj.weight" { values[16 * 3 + 5] = .nan }
    }
    try expect(
      ["model.layers.1.mlp.gate_proj.weight", "row 3, column 5", "model.safetensors"], exit: 65, checkpoint)
  }

  @Test func activationsThatAreNotFinite() throws {
    var checkpoint = TinyCheckpoint()
    // Finite weights whose product is not.
    checkpoint.edit = { name, values in
      if name == "model.layers.0.mlp.up_proj.weight" || name == "model.layers.0.mlp.gate_proj.weight" {
        values = values.map { $0 * 1e30 }
      }
    }
    try expect(["block 0, site down", "not finite"], exit: 65, checkpoint)
  }

  @Test func whatIsNotUTF8() throws {
    try expect(["corpus.txt", "not valid UTF-8"], exit: 65) {
      try File(writing: $0.corpus).write([0xC3, 0x28], at: 100)
    }
    try expect(["/model", "name that is not valid UTF-8"], exit: 65) { bench in
      let name = bench.model.utf8.map { CChar($0) } + [47, 97, -1, 0]
      let descriptor = open(name, O_WRONLY | O_CREAT, 0o644)
      #expect(descriptor >= 0 && close(descriptor) == 0)
    }
  }

  @Test func damagedTokenizer() throws {
    try expect(["tokenizer.json", "line 1"], exit: 65) {
      try $0.write("{\"model\": ", to: $0.model + "/tokenizer.json")
    }
    try expect(["tokenizer.json"], exit: 65) { try $0.write("{}", to: $0.model + "/tokenizer.json") }
  }

  @Test func wrongRecipes() throws {
    let bench = try Workbench()
    let cases: [(String, [String])] = [
      (
        "stages: [{warmStart: {sparsty: 0.5}}, emit]",
        ["recipe.yaml:1:23", "warmStart has no parameter \"sparsty\"", "Did you mean sparsity?"]
      ),
      (
        "stages:\n  - warmStart: {sparsity: much}\n",
        ["recipe.yaml:2:17", "sparsity must be a number from 0.0 to 1.0, or allocated, not \"much\""]
      ),
      ("stages: [{warmStart: {sparsity: 0.5, keep: 2, of: 4}}]", ["either sparsity or keep and of"]),
      ("stages: [{warmStart: {keep: 2}}]", ["keep and of belong together"]),
      ("stages: [{warmStart: {keep: 5, of: 4}}]", ["must not be larger"]),
      ("stages: [warmstart]", ["there is no stage \"warmstart\"", "Did you mean warmStart?"]),
      ("stages: [{warmStart: {sparsity: 0.5, targets: [nothing]}}, emit]", ["\"nothing\" matches no matrix"]),
      ("stages: [{warmStart: {sparsity: 0.5}}, emit]", ["needs `- factor`"]),
      (
        "stages: [{warmStart: {method: magnitude, sparsity: 0.5, targets: [q_proj], ignore: [q_proj]}}, emit]",
        ["no stage of the recipe prunes a matrix"]
      ),
      (
        "stages: [{warmStart: {method: magnitude, sparsity: 0.5, ignore: [nothing]}}, emit]",
        ["\"nothing\" matches no matrix"]
      ),
      (
        "stages: [{warmStart: {method: magnitude, sparsity: 0.5, targets: [\"re:(\"]}}, emit]",
        ["is not a regular expression"]
      ),
    ]
    for (recipe, parts) in cases {
      let (message, exitCode) = bench.failure { try bench.run(recipe) }
      #expect(exitCode == 64)
      for part in parts { #expect(message.contains(part), "\(message) does not say \(part)") }
    }
  }

  @Test func swapsWithoutGramMatrices() throws {
    let bench = try Workbench()
    let (message, exitCode) = bench.failure {
      try bench.run(bench.recipe("warmStart: {sparsity: 0.5}", "swap", factor: "{kind: diagonal}"))
    }
    #expect(message.contains("set factor.kind=gram") && exitCode == 64)
  }

  @Test func anOutputFolderThatIsNotOurs() throws {
    let bench = try Workbench()
    try Folder.create(bench.folder.path + "/out")
    try bench.write("precious", to: bench.folder.path + "/out/thesis.txt")
    let recipe = bench.recipe("warmStart: {sparsity: 0.5}")
    let (message, exitCode) = bench.failure { try bench.run(recipe) }
    #expect(message.contains("files in it that espalier did not write") && exitCode == 64)
    #expect(try Folder.names(in: bench.folder.path + "/out") == ["thesis.txt"])
    // And one of ours that holds something else.
    try bench.run(recipe, output: "mine")
    let other = bench.failure { try bench.run(bench.recipe("warmStart: {sparsity: 0.6}"), output: "mine") }
    #expect(other.text.contains("holds the model of another recipe") && other.exitCode == 64)
  }

  @Test func damageAfterwardsIsFound() throws {
    let bench = try Workbench()
    let output = try bench.run(bench.recipe("warmStart: {sparsity: 0.5}"))
    let size = try #require(try Folder.entry(output + "/model.safetensors")).size
    let file = try File(writing: output + "/model.safetensors")
    try file.write([0x12], at: size - 3)
    #expect(
      try Verification(folder: output, on: device).findings.map(\.subject) == [output + "/model.safetensors"])
    try Folder.remove(output + "/config.json")
    #expect(try Verification(folder: output, on: device).findings.count == 2)
  }
}
