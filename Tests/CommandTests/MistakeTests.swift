import EspalierCore
import EspalierIO
import EspalierTestSupport
import Foundation
import Testing

/// Mistakes of users that are told before any work, each with the way out: `plan` and `run` say the same in one message, and write nothing.
@Suite struct MistakeTests {
  private let scene: Scene
  private var folder: String { scene.folder.path }
  private var model: String { scene.model }

  init() throws { scene = try Scene() }

  // MARK: - Parts

  /// Expects that `plan` and `run` refuse a job in the same words and leave nothing behind.
  private func refused(
    _ more: [String] = [], recipe: String = "wanda-50", model: String? = nil, output: String? = nil,
    code: Int32, _ words: String..., location: SourceLocation = #_sourceLocation
  ) throws {
    let before = try Folder.names(in: folder)
    for command in ["plan", "run"] {
      var arguments = scene.arguments(recipe, command: command, more)
      if let model, let place = arguments.firstIndex(of: "--model") { arguments[place + 1] = model }
      if let output, let place = arguments.firstIndex(of: "--output") { arguments[place + 1] = output }
      let result = try Program.run(arguments)
      #expect(result.exitCode == code, "\(command): \(result.errors)", sourceLocation: location)
      for word in words {
        #expect(result.errors.contains(word), "\(command): \(result.errors)", sourceLocation: location)
      }
      // One mistake, one message.
      let messages = result.errors.split(separator: "\n").count { $0.hasPrefix("espalier: ") }
      #expect(messages <= 1 && result.output.isEmpty, "\(result.errors)", sourceLocation: location)
      #expect(try Folder.names(in: folder) == before, sourceLocation: location)
    }
  }

  /// Only the option makes a process one of many, and a program without MPI says how to build one that has it.
  @Test func environmentsOfLaunchersAreNoLaunchers() throws {
    let environment = [
      "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2",
      "PMI_SIZE": "4", "PMI_RANK": "2",
    ]
    let alone = try Program.run(scene.arguments("wanda-50"), environment: environment)
    #expect(alone.exitCode == 0 && alone.output.contains("/out"), "\(alone.errors)")
    let result = try Program.run(scene.arguments("wanda-50", output: "other", ["--distributed", "mpi"]))
    #expect(result.exitCode == 64 && result.errors.contains("--traits MPI"), "\(result.errors)")
    #expect(try Folder.entry(folder + "/other.work") == nil)
  }

  private func write(_ name: String, _ text: String) throws -> String {
    try write(name, bytes: Array(text.utf8))
  }

  private func write(_ name: String, bytes: [UInt8]) throws -> String {
    let path = folder + "/" + name
    try Folder.writeAtomically(bytes, to: path)
    return path
  }

  private func corpus(_ path: String) -> [String] { ["--set", "tokenize.corpus=\(path)"] }

  /// A copy of the model without some files.
  private func copy(without names: String...) throws -> String {
    let copy = folder + "/copy"
    try Folder.create(copy)
    for name in try Folder.names(in: model) where !names.contains(name) {
      try Folder.writeAtomically(Folder.read("\(model)/\(name)"), to: "\(copy)/\(name)")
    }
    return copy
  }

  private let pointer =
    "version https://git-lfs.github.com/spec/v1\noid sha256:4665a5ea423c2713d436b5ee50593a9640e0018c1550b5a0002f74190d6caea8\nsize 1976163472\n"

  // MARK: - Texts

  @Test func theTextIsShorterThanAWindow() throws {
    let short = try write("short.txt", "a few words")
    try refused(corpus(short), code: 65, "short.txt", "12 tokens, less than one window of 32")
    try refused(
      corpus(short) + ["--set", "tokenize.draw=random"], code: 65, "no text has more than 32 tokens",
      "smaller tokenize.length")
    let lines = try write("short.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two words\"}\n")
    try refused(
      corpus(lines) + ["--set", "tokenize.draw=random"], code: 65, "the longest has 10")
    try refused(["--set", "evaluate.text=\(short)"], code: 65, "short.txt", "less than one window of 128")
  }

  @Test func theTextHasFewerWindowsThanWanted() throws {
    try refused(["--set", "tokenize.samples=5000"], code: 65, "windows of 32 tokens, but 5000 are wanted")
  }

  @Test func theTextIsEmpty() throws {
    for (name, text) in [("empty.txt", ""), ("empty.jsonl", ""), ("blank.jsonl", "\n \n")] {
      try refused(corpus(write(name, text)), code: 65, "\(name): the text is empty")
    }
    let empty = try write("empty.txt.gz", bytes: packed([], .gzip))
    try refused(corpus(empty), code: 65, "empty.txt.gz: the text is empty")
    try refused(["--set", "evaluate.text=\(empty)"], code: 65, "evaluate", "the text is empty")
  }

  @Test func linesHaveNoText() throws {
    let other = try write("c.jsonl", "{\"content\": \"a\", \"url\": \"b\"}\n")
    try refused(
      corpus(other), code: 65, "c.jsonl:1", "no JSON object with a \"text\"", "It has content, url.")
    let list = try write("c.json", "[\n{\"text\": \"a\"}\n]\n")
    try refused(corpus(list), code: 65, "c.json:1", "jq -c '.[]'")
  }

  @Test func theTokensAreFewerThanWanted() throws {
    let path = folder + "/ids.safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("input_ids", .i32, [4, 32])])
    try writer.append([Int32](repeating: 1, count: 128))
    try writer.finish()
    try refused(corpus(path), code: 65, "4 rows of 32 tokens, but 12 of 32 are wanted")
  }

  @Test func theTextIsParquet() throws {
    let bytes = Array("PAR1".utf8) + [UInt8](repeating: 0x15, count: 80) + Array("PAR1".utf8)
    for name in ["c.parquet", "c.txt", "c.jsonl"] {
      try refused(
        corpus(write(name, bytes: bytes)), code: 65, name, "Parquet", "to_json('\(folder)/\(name).jsonl'")
    }
  }

  @Test func theTextIsUTF16() throws {
    let text = TinyCheckpoint.text(4000)
    func bytes(_ order: (UInt16) -> UInt16, mark: Bool) -> [UInt8] {
      ((mark ? [0xFEFF] : []) + Array(text.utf16)).flatMap { unit in
        [UInt8(truncatingIfNeeded: order(unit)), UInt8(truncatingIfNeeded: order(unit) >> 8)]
      }
    }
    for mark in [true, false] {
      try refused(
        corpus(write("little.txt", bytes: bytes(\.littleEndian, mark: mark))), code: 65,
        "little.txt: the text is UTF-16",
        "iconv -f UTF-16\(mark ? "" : "LE") -t UTF-8")
      try refused(
        corpus(write("big.txt", bytes: bytes(\.bigEndian, mark: mark))), code: 65, "UTF-16",
        "iconv -f UTF-16\(mark ? "" : "BE") -t UTF-8")
    }
  }

  @Test func theTextIsInAnotherEncoding() throws {
    let latin = try write(
      "latin.txt", bytes: Array("caf".utf8) + [0xE9] + Array(TinyCheckpoint.text(900).utf8))
    try refused(corpus(latin), code: 65, "latin.txt", "not valid UTF-8 at byte 3", "iconv")
  }

  @Test func thePackedTextHasAnotherName() throws {
    let text = Array(TinyCheckpoint.text(4000).utf8)
    for packing in Packing.allCases {
      for name in ["packed.txt", "packed.jsonl"] {
        let path = try write(name, bytes: packed(text, packing))
        try refused(corpus(path), code: 65, "rename it to \(path)\(packing.rawValue)")
        try refused(["--set", "evaluate.text=\(path)"], code: 65, "rename it to \(path)\(packing.rawValue)")
      }
      let plain = try write("plain.txt\(packing.rawValue)", bytes: text)
      try refused(corpus(plain), code: 65, "the name ends in \(packing.rawValue), but the file is not packed")
    }
  }

  /// The end of a longer text is not looked at before the work, and its start is cut neither in a line nor in a character.
  @Test(arguments: ["txt", "jsonl", "txt.gz", "jsonl.zst"]) func aLongTextIsNotRefused(ending: String) throws
  {
    let line = "é" + String(repeating: "ü", count: 51)
    let text = String(
      repeating: ending.hasPrefix("jsonl") ? "{\"text\": \"\(line)\"}\n" : line, count: 12_000)
    let bytes = Array(text.utf8)
    let path = try write("long.\(ending)", bytes: Packing(path: ending).map { packed(bytes, $0) } ?? bytes)
    let plan = try Program.run(scene.arguments("wanda-50", command: "plan", corpus(path)))
    #expect(plan.exitCode == 0, "\(plan.errors)")
  }

  @Test func theTextIsAPipeOrAFolderOfOtherFiles() throws {
    let pipe = folder + "/pipe"
    #expect(mkfifo(pipe, 0o644) == 0)
    try refused(corpus(pipe), code: 65, "\(pipe): this is a pipe or a device, not a file")
    try refused(corpus(model), code: 64, "\(model): these are texts and tokens (.safetensors)")
    try refused(corpus(folder + "/*.parquet"), code: 64, "\(folder)/*.parquet: no file has a name like this")
  }

  @Test func windowsAreLongerThanTheModelWasMadeFor() throws {
    try refused(
      ["--set", "tokenize.length=129"], code: 64, "at most 128 tokens", "tokenize.length=128 or less")
    try refused(
      ["--set", "evaluate.text=\(scene.text)", "--set", "evaluate.length=129"], code: 64,
      "evaluate: length is 129",
      "at most 128 tokens")
    let command = try Program.run(["evaluate", model, "--text", scene.text, "--length", "129"])
    #expect(command.exitCode == 64 && command.errors.contains("at most 128 tokens"))
  }

  // MARK: - Questions

  private func task(_ name: String, _ path: String) -> [String] {
    ["--set", "evaluate.tasks=\(name)=\(path)"]
  }

  @Test func theQuestionFileIsMissing() throws {
    try refused(
      task("arc_easy", "nowhere.jsonl"), code: 66,
      "evaluate.tasks.arc_easy: nowhere.jsonl: there is no such file")
  }

  @Test func theQuestionsHaveAnotherLayout() throws {
    let path = try write("q.jsonl", "{\"goal\": \"a\", \"sol1\": \"b\", \"sol2\": \"c\", \"label\": 0}\n")
    try refused(
      task("arc_easy", path), code: 65, "q.jsonl:1: a row of arc_easy has the columns question, choices.text",
      "or query, choices, gold", "This one has goal, sol1, sol2, label, as rows of piqa do.")
  }

  @Test func theQuestionsAreNoJSONLines() throws {
    for (name, text, words) in [
      ("q.csv", "question,choice,answer\na,b,c\n", "a JSON object on one line"),
      ("q.json", "[\n  {\"query\": \"a\"}\n]\n", "jq -c '.[]'"),
      ("q.json", "[{\"query\": \"a\"}]\n", "jq -c '.[]'"),
      ("q.parquet", "PAR1", "Parquet"), ("q.jsonl", pointer, "git lfs pull"), ("q.jsonl", "\n\n", "no rows"),
    ] {
      try refused(task("arc_easy", write(name, text)), code: 65, name, words)
    }
  }

  @Test func thereIsNoSuchTask() throws {
    try refused(task("arceasy", scene.text), code: 64, "no task \"arceasy\"", "Did you mean arc_easy?")
  }

  // MARK: - Recipes

  @Test func aDiagonalForAStageThatNeedsGramMatrices() throws {
    try refused(
      ["--set", "factor.kind=diagonal"], recipe: "sparseswaps-60", code: 64, "swap needs Gram matrices",
      "set factor.kind=gram")
    let wanda = try Program.run(
      scene.arguments("wanda-50", command: "plan", ["--set", "factor.kind=diagonal"]))
    #expect(wanda.exitCode == 0, "\(wanda.errors)")
    for stage in ["frankWolfe", "reconstruct"] {
      let recipe = try write(
        "recipe.yaml",
        "stages: [tokenize: {corpus: x}, capture, factor: {kind: diagonal}, warmStart: {sparsity: 0.5}, \(stage), emit]"
      )
      let result = try Program.run(plan(recipe))
      #expect(
        result.exitCode == 64 && result.errors.contains("\(stage) needs Gram matrices"), "\(result.errors)")
    }
  }

  private func plan(_ recipe: String, command: String = "plan") -> [String] {
    var arguments = scene.arguments("wanda-50", command: command)
    arguments[1] = recipe
    return arguments
  }

  @Test func aRecipeWithoutEmit() throws {
    let recipe = try write(
      "recipe.yaml", "stages: [tokenize: {corpus: x}, capture, factor, warmStart: {sparsity: 0.5}]")
    let work = folder + "/out.work"
    let warning = "warning: no stage of the recipe writes the pruned model, so masks will stay in \(work)"
    let planned = try Program.run(plan(recipe))
    #expect(planned.exitCode == 0 && planned.errors.contains(warning) && planned.errors.contains("`- emit`"))
    let run = try Program.run(plan(recipe, command: "run"))
    #expect(run.exitCode == 0 && run.errors.contains(warning))
    #expect(run.output.contains("masks           in \(work)") && !run.output.contains("pruned model    "))
    #expect(try Folder.entry(folder + "/out") == nil)
    // With the stage, the masks become a model.
    let again = try write(
      "recipe.yaml", "stages: [tokenize: {corpus: x}, capture, factor, warmStart: {sparsity: 0.5}, emit]")
    let emitted = try Program.run(plan(again, command: "run"))
    #expect(emitted.exitCode == 0 && emitted.output.contains("pruned model    \(folder)/out"))
    #expect(!emitted.errors.contains("] warmStart/"))
  }

  @Test func aSparsityOfZeroOrOne() throws {
    try refused(["--set", "warmStart.sparsity=0"], code: 64, "would prune no weight")
    try refused(["--set", "warmStart.sparsity=1"], code: 64, "would prune every weight")
    let groups = ["--set", "warmStart.sparsity=", "--set", "warmStart.of=4", "--set"]
    try refused(groups + ["warmStart.keep=4"], code: 64, "would prune no weight")
    try refused(groups + ["warmStart.keep=0"], code: 64, "would prune every weight")
    try refused(
      ["--set", "allocate.sparsity=0"], recipe: "owl-swaps-reconstruct-60", code: 64, "would prune no weight")
  }

  @Test func aSparsityInPercentIsOneMistake() throws {
    try refused(
      ["--set", "warmStart.sparsity=50"], code: 64, "sparsity must be a number from 0.0 to 1.0, or allocated")
    let result = try Program.run(scene.arguments("wanda-50", ["--set", "warmStart.sparsity=50"]))
    #expect(!result.errors.contains("mistakes") && !result.errors.contains("give sparsity"))
  }

  @Test func aPatternMatchesNothing() throws {
    func targets(_ name: String) -> [String] { ["--set", "warmStart.targets=[\"\(name)\"]"] }
    try refused(
      targets("re:down_proj"), code: 64, "expressions match from the start of the name",
      "write \"re:.*(down_proj)\"")
    try refused(
      targets("re:nothing"), code: 64, "from the start of the name, as model.layers.0.self_attn.q_proj.")
    try refused(
      targets("*.down_proj"), code: 64, "a * has no meaning in a name", "write \"re:.*\\.down_proj\"")
    try refused(targets("dwn_proj"), code: 64, "Did you mean down_proj?")
    try refused(targets("mlp.dwn_proj"), code: 64, "Did you mean mlp.down_proj?")
    try refused(
      ["--set", "warmStart.ignore=[lm_head]"], code: 64, "\"lm_head\" matches no matrix",
      "it has q_proj, k_proj")
  }

  @Test(arguments: [
    ("wanda", "`- warmStart: {method: wanda"), ("RIA", "`- warmStart: {method: ria"),
    ("magnitude", "`- warmStart: {method: magnitude"), ("sparse-swaps", "`- swap`"), ("ALPS", "`- admm: "),
    ("gptq", "`- sparseGPT: "), ("owl", "`- allocate: {method: owl"),
    ("sparsegpt", "Did you mean sparseGPT?"),
  ])
  func theNameOfAStageIsAMethod(name: String, advice: String) throws {
    let recipe = try write("recipe.yaml", "stages:\n  - \(name): {sparsity: 0.5}\n  - emit\n")
    let result = try Program.run(plan(recipe))
    #expect(result.exitCode == 64 && result.errors.contains("recipe.yaml:2:5: there is no stage \"\(name)\""))
    #expect(result.errors.contains(advice), "\(result.errors)")
    let stages = try Program.run(["stages", name])
    #expect(stages.exitCode == 64 && stages.errors.contains(advice))
  }

  /// What the table of methods says to write is a stage with these parameters.
  @Test func whatIsSaidToWriteCanBeWritten() throws {
    for name in ["wanda", "ria", "magnitude", "sparseswaps", "sparsefw", "alps", "gptq", "owl"] {
      let said = try Program.run(["stages", name]).errors
      let written = said.split(separator: "`").filter { $0.hasPrefix("- ") }.map { "  \($0)\n" }.joined()
      let isAllocation = name == "owl"
      let recipe = try write(
        "recipe.yaml",
        "stages:\n  - tokenize: {corpus: x}\n  - capture\n  - factor\n\(written)\(isAllocation ? "  - warmStart: {sparsity: allocated}\n" : "")  - emit\n"
      )
      let result = try Program.run(plan(recipe))
      #expect(result.exitCode == 0, "\(name): \(result.errors)")
    }
  }

  // MARK: - Models

  @Test func theModelIsAGGUFFile() throws {
    let file = try write("model.gguf", bytes: Array("GGUF".utf8) + [3, 0, 0, 0])
    try refused(model: file, code: 65, "model.gguf: this is a GGUF file", "config.json and *.safetensors")
    let copy = try copy(without: "model.safetensors")
    try Folder.writeAtomically([1], to: copy + "/q4.gguf")
    try refused(model: copy, code: 65, "model.safetensors is missing, but there is q4.gguf")
  }

  @Test func theModelIsAFile() throws {
    try refused(model: model + "/model.safetensors", code: 65, "this is no folder", "such as \(model)")
    try refused(model: folder, code: 65, "config.json is missing here; do you mean \(model)?")
  }

  @Test func theModelIsANameOnTheHub() throws {
    for name in ["meta-llama/Llama-3.1-8B", "https://huggingface.co/meta-llama/Llama-3.1-8B"] {
      try refused(
        model: name, code: 66, "a name on the Hugging Face hub",
        "hf download meta-llama/Llama-3.1-8B --local-dir Llama-3.1-8B")
    }
  }

  @Test func filesAreGitLFSPointers() throws {
    let copy = try copy(without: "model.safetensors", "tokenizer.json")
    try Folder.writeAtomically(Folder.read(model + "/model.safetensors"), to: copy + "/model.safetensors")
    try Folder.writeAtomically(Array(pointer.utf8), to: copy + "/tokenizer.json")
    try refused(model: copy, code: 65, "tokenizer.json: this is a git-lfs pointer", "git lfs pull")
    try Folder.writeAtomically(Array(pointer.utf8), to: copy + "/model.safetensors")
    try refused(model: copy, code: 65, "model.safetensors: this is a git-lfs pointer", "git lfs pull")
    try refused(corpus(write("text.jsonl", pointer)), code: 65, "text.jsonl: this is a git-lfs pointer")
  }

  @Test func theWeightsAreInAnotherFormat() throws {
    let copy = try copy(without: "model.safetensors")
    try refused(model: copy, code: 65, "model.safetensors is missing; a checkpoint is a folder with")
    try Folder.writeAtomically([1], to: copy + "/pytorch_model.bin")
    try refused(model: copy, code: 65, "there is pytorch_model.bin", "save_pretrained")
  }

  @Test func theTokenizerIsOnlyATokenizerModel() throws {
    let copy = try copy(without: "tokenizer.json")
    try refused(model: copy, code: 65, "tokenizer.json is missing")
    try Folder.writeAtomically([1], to: copy + "/tokenizer.model")
    try refused(model: copy, code: 65, "there is a tokenizer.model, but no tokenizer.json", "save_pretrained")
  }

  @Test func theModelIsQuantized() throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.configuration = {
      $0.append((key: "quantization_config", value: ["quant_method": "gptq", "bits": 4]))
    }
    try checkpoint.write(to: folder + "/quantized")
    try refused(
      model: folder + "/quantized", code: 65,
      "config.json: quantization_config: the weights are quantized (gptq)",
      "original checkpoint")
  }

  /// The file is named once, with the section that the value is in.
  @Test func aValueOfTheConfigurationIsNotSupported() throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.configuration = {
      $0.append((key: "rope_scaling", value: ["rope_type": "linear", "factor": "2"]))
    }
    try checkpoint.write(to: folder + "/scaled")
    try refused(
      model: folder + "/scaled", code: 65,
      "espalier: \(folder)/scaled/config.json: rope_scaling: factor must be a number, not \"2\".")
  }

  /// What compressed-tensors says of a compact folder is no quantization.
  @Test func aCompactModelIsNotTakenForAQuantizedOne() throws {
    #expect(try Program.run(scene.arguments("wanda-50")).exitCode == 0)
    let compact = folder + "/compact"
    let packed = try Program.run(["pack", folder + "/out", compact, "--metadata", "compressed-tensors"])
    #expect(packed.exitCode == 0, "\(packed.errors)")
    #expect(try Folder.readJSON(compact + "/config.json")["quantization_config"] != nil)
    var arguments = scene.arguments("wanda-50", command: "plan", output: "again")
    if let place = arguments.firstIndex(of: model) { arguments[place] = compact }
    let plan = try Program.run(arguments)
    #expect(plan.exitCode == 0, "\(plan.errors)")
  }

  // MARK: - Places

  @Test func somethingIsMissing() throws {
    let here = FileManager.default.currentDirectoryPath
    let place = "the path starts at the current folder, \(here)."
    try refused(
      corpus("data/none.txt"), code: 66, "tokenize.corpus: data/none.txt: there is no such file", place)
    try refused(model: "nowhere", code: 66, "nowhere: there is no such folder", place)
    try refused(corpus(folder + "/none.txt"), code: 66, "\(folder)/none.txt: there is no such file.")
    for arguments in [
      ["evaluate", "nowhere", "--text", scene.text], ["evaluate", model, "--text", "nowhere"],
      ["evaluate", model, "--task", "piqa=nowhere"],
      ["evaluate", model, "--text", scene.text, "--against", "nowhere"],
      ["generate", "nowhere", "--prompt", "x"],
      ["generate", model, "--file", "nowhere"], ["generate", model, "--messages", "nowhere"],
      ["verify", "nowhere"],
      ["inspect", "nowhere"], ["status", "nowhere"], ["report", "nowhere"], ["explain", "nowhere", "x"],
      ["pack", "nowhere", "x"], ["unpack", "nowhere", "x"], plan("nowhere"),
    ] {
      let result = try Program.run(arguments)
      #expect(result.exitCode == 66 && result.errors.contains("nowhere: "), "\(arguments) \(result.errors)")
      #expect(result.errors.contains(place) && result.output.isEmpty, "\(arguments) \(result.errors)")
    }
  }

  @Test func aFolderOfAnotherKind() throws {
    for command in [["status", model], ["report", model], ["explain", model, "x"]] {
      let result = try Program.run(command)
      #expect(result.exitCode == 65 && result.errors.contains("not a work folder"), "\(result.errors)")
    }
  }

  @Test func anEmptyPath() throws {
    for option in ["--output", "--model", "--work"] {
      var arguments = scene.arguments("wanda-50", command: "plan")
      if let place = arguments.firstIndex(of: option) { arguments[place + 1] = "" }
      let result = try Program.run(arguments)
      #expect(result.exitCode == 64, "\(option)")
      for words in ["'\(option) <", "the path is empty", "shell variable"] {
        #expect(result.errors.contains(words), "\(result.errors)")
      }
    }
    for arguments in [["pack", model, ""], ["inspect", ""], ["evaluate", model, "--text", ""]] {
      let result = try Program.run(arguments)
      #expect(result.exitCode == 64 && result.errors.contains("the path is empty"), "\(result.errors)")
    }
  }

  @Test func theOutputIsAPipeOrADevice() throws {
    let pipe = folder + "/pipe"
    #expect(mkfifo(pipe, 0o644) == 0)
    for path in [pipe, "/dev/null"] {
      try refused(output: path, code: 64, "\(path): this is a pipe or a device; --output names a folder")
    }
    try refused(output: scene.text, code: 64, "\(scene.text): this is a file; --output names a folder")
    let work = scene.arguments("wanda-50", ["--work", pipe])
    let result = try Program.run(work)
    #expect(
      result.exitCode == 64 && result.errors.contains("\(pipe): this is a pipe or a device; --work names"))
    let samples = try Program.run([
      "evaluate", model, "--text", scene.text, "--length", "32", "--windows", "1", "--samples", pipe,
    ])
    #expect(samples.exitCode == 64 && samples.errors.contains("pipe or a device"), "\(samples.errors)")
    #expect(try Folder.entry(pipe)?.isFile == false)
    let lost = try Program.run([
      "evaluate", model, "--text", scene.text, "--length", "32", "--windows", "1", "--samples",
      folder + "/no/file",
    ])
    #expect(lost.exitCode == 64 && lost.errors.contains("the folder of this file is not there"))
  }

  @Test func theOutputIsALink() throws {
    try Folder.create(folder + "/elsewhere")
    try FileManager.default.createSymbolicLink(
      atPath: folder + "/link", withDestinationPath: folder + "/elsewhere")
    try refused(output: folder + "/link", code: 64, "this is a link; give the folder itself as --output")
  }

  @Test func theOutputFolderHasOtherFiles() throws {
    try Folder.create(folder + "/full")
    try Folder.writeAtomically([1], to: folder + "/full/notes.txt")
    try refused(output: folder + "/full", code: 64, "files in it that espalier did not write")
  }

  @Test func anEmptyOutputFolderIsAccepted() throws {
    try Folder.create(folder + "/out")
    let run = try Program.run(scene.arguments("wanda-50"))
    #expect(run.exitCode == 0, "\(run.errors)")
    #expect(try Program.run(["verify", folder + "/out"]).exitCode == 0)
    try Folder.create(folder + "/compact")
    #expect(try Program.run(["pack", folder + "/out", folder + "/compact"]).exitCode == 0)
    #expect(try Program.run(["verify", folder + "/compact"]).exitCode == 0)
  }

  /// Another run is about to write the output: this one leaves no work folder.
  @Test func theOutputIsLocked() throws {
    let output = folder + "/out"
    let held = try FolderLock(folder: output + ".partial", .output(output))
    let result = try Program.run(scene.arguments("wanda-50", ["--work", folder + "/second"]))
    #expect(result.exitCode == 75 && result.errors.contains("choose another with --output"))
    #expect(try Folder.entry(folder + "/second") == nil)
    withExtendedLifetime(held) {}
  }

  @Test func aFinishedOutputCanGainAnEvaluation() throws {
    #expect(try Program.run(scene.arguments("wanda-50")).exitCode == 0)
    func weights() throws -> [String] { try scene.digest("out").filter { $0.hasPrefix("model") } }
    let before = try weights()
    let more = [
      "--set", "evaluate.text=\(scene.text)", "--set", "evaluate.length=32", "--set", "evaluate.windows=3",
    ]
    let run = try Program.run(scene.arguments("wanda-50", more))
    #expect(run.exitCode == 0 && run.output.contains("window perplexity"), "\(run.errors)")
    #expect(!run.errors.contains("] emit") && run.errors.contains("] evaluate"))
    #expect(try weights() == before && Program.run(["verify", folder + "/out"]).exitCode == 0)
  }

  // MARK: - The command line

  @Test func aNegativeNumber() throws {
    let memory = try Program.run(scene.arguments("wanda-50", ["--memory", "-1GiB"]))
    #expect(memory.exitCode == 64)
    #expect(memory.errors.contains("--memory must be a size as 512MiB or 2GiB, not \"-1GiB\""))
    let threads = try Program.run(scene.arguments("wanda-50", ["--threads", "-1"]))
    #expect(threads.exitCode == 64 && threads.errors.contains("--threads must be at least 1"))
    let limit = try Program.run(["evaluate", model, "--task", "questions=x", "--limit", "-5"])
    #expect(limit.exitCode == 64 && limit.errors.contains("--limit must be at least 1"))
    let tokens = try Program.run(["generate", model, "--prompt", "x", "--max-tokens", "-5"])
    #expect(tokens.exitCode == 64 && tokens.errors.contains("--max-tokens must be at least 1"))
  }

  /// With `--json`, standard output is one document also if there is no result, and standard error is left to progress.
  @Test func errorsAreJSON() throws {
    let cases: [(arguments: [String], code: Int, kind: String, subject: String?, words: String)] = [
      (["plan", "x", "--json"], 64, "usage", nil, "--model"),
      (
        scene.arguments("wanda-50", ["--json", "--set", "warmStart.sparsity=9"]), 64, "usage", nil, "sparsity"
      ),
      (["inspect", folder, "--json"], 65, "bad input", folder, "config.json is missing"),
      (["status", "nowhere", "--json"], 66, "missing input", "nowhere", "no such folder"),
      (["verify", model, "--json"], 65, "bad input", model, "neither a checkpoint"),
    ]
    for (arguments, code, kind, subject, words) in cases {
      let result = try Program.run(arguments)
      let error = result.json["error"]
      #expect(
        Int(result.exitCode) == code && error?["code"]?.integer == code, "\(arguments) \(result.output)")
      #expect(error?["kind"]?.string == kind && error?["subject"]?.string == subject, "\(result.output)")
      #expect(error?["message"]?.string?.contains(words) == true, "\(result.output)")
      #expect(error?.object?.members.map(\.key) == ["code", "kind", "subject", "message"])
      #expect(result.errors.isEmpty, "\(result.errors)")
    }
    let help = try Program.run(["plan", "--help", "--json"])
    #expect(help.exitCode == 0 && help.output.hasPrefix("OVERVIEW"))
  }
}
