import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

/// The command line as the README shows it.
@Suite struct CommandTests {
  @Test(arguments: ["wanda-50", "sparseswaps-60", "sparseswaps-2of4", "ria-swaps-60"])
  func everyShippedRecipeWorksAsItIs(recipe: String) throws {
    let scene = try Scene()
    let plan = try Program.run(scene.arguments(recipe, command: "plan", ["--json"]))
    #expect(plan.exitCode == 0, "\(plan.errors)")
    #expect((plan.json["peakMemory"]?.integer ?? 0) > 0 && (plan.json["units"]?.integer ?? 0) > 20)
    #expect(try Folder.names(in: scene.folder.path) == ["model", "text.txt"], "a plan writes nothing")

    let evaluation = [
      "--set", "evaluate.text=\(scene.text)", "--set", "evaluate.length=32", "--set", "evaluate.windows=3",
    ]
    let run = try Program.run(scene.arguments(recipe, ["--json"] + evaluation))
    #expect(run.exitCode == 0, "\(run.errors)")
    let (output, work) = (scene.folder.path + "/out", scene.folder.path + "/out.work")

    let report = try Program.run(["report", work, "--json"]).json
    #expect(report["matrices"]?.array?.count == 21)
    #expect((report["perplexities"]?["pruned"]?.double ?? 0) > 1)
    #expect(report.text == run.json.text)
    #expect(report["coverage"]?["pruned"]?.array?.count == 7)

    let status = try Program.run(["status", work, "--json"]).json
    #expect(status["state"]?.string == "finished" && status["done"]?.integer == status["units"]?.integer)

    let inspection = try Program.run(["inspect", output, "--json"]).json
    let matrices = inspection["matrices"]?.array ?? []
    #expect(matrices.count == 21)
    for matrix in matrices {
      let (rows, columns) = (matrix["rows"]?.integer ?? 0, matrix["columns"]?.integer ?? 0)
      let zeros =
        rows
        * (recipe == "wanda-50" || recipe == "sparseswaps-2of4" ? columns / 2 : Int(Double(columns) * 0.6))
      #expect(matrix["zeros"]?.integer == zeros)
      if recipe == "sparseswaps-2of4" { #expect(matrix["pattern"]?.string == "2:4") }
    }
    #expect(try Program.run(["verify", output]).exitCode == 0)
    #expect(try Program.run(["verify", work]).exitCode == 0)

    let evaluated = try Program.run([
      "evaluate", output, "--text", scene.text, "--length", "32", "--windows", "3", "--json",
    ]).json
    let perplexity = try #require(evaluated["perplexities"]?.array?.first)
    #expect(perplexity["perplexity"]?.double == report["perplexities"]?["pruned"]?.double)
    #expect(
      perplexity["definition"]?.string == "window" && perplexity["windows"]?.integer == 3
        && perplexity["tokens"]?.integer == 96)
  }

  /// What a launcher or a job script leaves in the environment makes no ranks.
  @Test func theEnvironmentAloneMakesNoRanks() throws {
    let scene = try Scene()
    let environment = [
      "SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4",
      "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "PMI_SIZE": "4", "PMI_RANK": "1",
      "PMIX_RANK": "1", "PMI_FD": "9",
    ]
    let run = try Program.run(scene.arguments("wanda-50"), environment: environment)
    #expect(run.exitCode == 0, "\(run.errors)")
    #expect(try Program.run(scene.arguments("wanda-50", output: "plain")).exitCode == 0)
    #expect(try scene.digest("out") == scene.digest("plain"))
    let events = try Folder.readText(scene.folder.path + "/out.work/events.jsonl")
    #expect(!events.contains(#""event":"ranks""#))
  }

  /// The same numbers from a compact folder as from the dense one, and a plan of it.
  @Test func aCompactFolderIsReadLikeADenseOne() throws {
    let scene = try Scene()
    let (dense, compact) = (scene.folder.path + "/out", scene.folder.path + "/compact")
    #expect(try Program.run(scene.arguments("sparseswaps-2of4")).exitCode == 0)
    let packed = try Program.run(["pack", dense, compact])
    #expect(packed.exitCode == 0 && packed.output.contains("21 compact matrices"), "\(packed.errors)")
    for arguments in [
      ["inspect"], ["evaluate", "--text", scene.text, "--length", "32", "--windows", "3"], ["verify"],
    ] {
      let (ours, theirs) = try (
        Program.run([arguments[0], compact] + arguments.dropFirst() + ["--json"]),
        Program.run([arguments[0], dense] + arguments.dropFirst() + ["--json"])
      )
      #expect(ours.exitCode == 0 && theirs.exitCode == 0, "\(ours.errors)")
      guard arguments[0] != "verify" else { continue }
      #expect(ours.output.replacing(compact, with: dense) == theirs.output)
    }
    let again = try Program.run(["pack", dense, compact])
    #expect(again.exitCode == 64 && again.errors.contains("the output exists"))
    var plan = scene.arguments("wanda-50", command: "plan", output: "again", ["--json"])
    let model = try #require(plan.firstIndex(of: scene.model))
    plan[model] = compact
    let planned = try Program.run(plan)
    #expect(planned.exitCode == 0 && (planned.json["units"]?.integer ?? 0) > 20, "\(planned.errors)")
  }

  @Test func everyCommandExplainsItself() throws {
    for command in [
      "plan", "run", "status", "report", "inspect", "pack", "unpack", "evaluate", "verify", "explain",
      "stages",
    ] {
      let help = try Program.run([command, "--help"])
      #expect(help.exitCode == 0 && help.output.contains("USAGE: espalier \(command)"))
      #expect(help.output.contains("--json"))
    }
    let stages = try Program.run(["stages"])
    let names = try Program.run(["stages", "--json"]).json.array?.compactMap { $0["name"]?.string } ?? []
    #expect(stages.output.split(separator: "\n").count == names.count)
    #expect(names.contains("warmStart") && names.allSatisfy { stages.output.contains($0) })
    let tokenize = try Program.run(["stages", "tokenize"]).output
    #expect(
      tokenize.contains("random | consecutive")
        && tokenize.contains("  id: word  (default: the stage's name)"))
  }

  @Test func exitCodesTellWhatWentWrong() throws {
    let scene = try Scene()
    let cases: [([String], Int32, String)] = [
      (["prune"], 64, "Unexpected argument"),
      (["stages", "wanda"], 64, "there is no stage"),
      (["run", "nowhere.yaml", "--model", scene.model, "--output", "x"], 66, "nowhere.yaml"),
      (
        scene.arguments("wanda-50", ["--set", "warmStart.sparsity=2"]), 64,
        "sparsity must be a number from 0.0 to 1.0"
      ),
      (scene.arguments("wanda-50", ["--memory", "1KiB"]), 64, "needs at least"),
      (scene.arguments("wanda-50", ["--memory", "much"]), 64, "--memory must be a size"),
      (["inspect", scene.folder.path + "/nothing"], 66, "no such folder"),
      (["evaluate", scene.folder.path, "--text", scene.text], 65, "config.json is missing"),
      (["evaluate", scene.model], 64, "Give --text"),
      (["verify", scene.model], 65, "neither"),
      (["status", scene.model], 65, "not a work folder"),
      (["status", scene.model + "/nothing"], 66, "no such folder"),
    ]
    for (arguments, code, text) in cases {
      let result = try Program.run(arguments)
      #expect(
        result.exitCode == code && result.errors.contains(text),
        "\(arguments): \(result.exitCode) \(result.errors)")
      #expect(result.output.isEmpty)
    }
  }

  @Test func verifyFindsAFlippedBit() throws {
    let scene = try Scene()
    #expect(try Program.run(scene.arguments("wanda-50")).exitCode == 0)
    let path = scene.folder.path + "/out/model.safetensors"
    let size = try #require(try Folder.entry(path)).size
    try File(writing: path).write([0x55], at: size / 2)
    let result = try Program.run(["verify", scene.folder.path + "/out", "--json"])
    #expect(result.exitCode == 65 && result.json["ok"]?.bool == false)
    #expect(result.json["findings"]?.array?.first?["subject"]?.string == path)
  }
}
