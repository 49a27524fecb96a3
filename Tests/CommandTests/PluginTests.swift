import EspalierCore
import EspalierIO
import EspalierTestSupport
import Foundation
import Testing

/// Stages that other programs compute.
@Suite(.serialized) struct PluginTests {
  private let scene: Scene

  init() throws {
    scene = try Scene()
    try describe("score")
    try describe("refine", more: "reads: gram\n")
    try describe("evaluate", name: "measure")
  }

  private var folder: String { scene.folder.path }

  /// Writes the description of the test plug-in in a role, which is its name if there is no other.
  private func describe(_ role: String, name: String? = nil, copies: Int = 1, more: String = "") throws {
    let program = Folder.parent(of: Program.path) + "/espalier-test-plugin"
    let text = """
      name: \(name ?? role)
      summary: Keeps the largest weights.
      version: 1
      role: \(role)
      command: ["\(program)"]
      copies: \(copies)
      timeout: 5
      \(more)parameters:
        how: {type: text, default: "", text: How it misbehaves.}

      """
    try Folder.create(folder + "/plugins")
    try write(text, to: "plugins/\(role).yaml")
  }

  private func write(_ text: String, to path: String) throws {
    try Folder.writeAtomically(Array(text.utf8), to: folder + "/" + path)
  }

  /// Runs a recipe with these stages after the factor.
  private func run(_ stages: [String], output: String = "out", _ more: [String] = []) throws -> Program.Result
  {
    let lines = ["tokenize: {corpus: \(scene.text), samples: 8, length: 32}", "capture", "factor"] + stages
    try write("stages:\n" + lines.map { "  - \($0)\n" }.joined(), to: "recipe.yaml")
    return try Program.run(
      [
        "run", folder + "/recipe.yaml", "--model", scene.model, "--output", "\(folder)/\(output)",
        "--plugins",
        folder + "/plugins",
      ] + more)
  }

  @Test func aScoreGivesTheBytesOfTheBuiltInStage() throws {
    let ours = try run(
      ["warmStart: {method: magnitude, keep: 2, of: 4}", "swap", "emit"], output: "built-in")
    let theirs = try run(["score: {keep: 2, of: 4}", "swap", "emit"])
    #expect(ours.exitCode == 0 && theirs.exitCode == 0, "\(theirs.errors)")
    #expect(theirs.errors.contains("half way"))
    for name in ["model.safetensors", "config.json"] {
      #expect(
        try SHA256.digest(ofFile: "\(folder)/out/\(name)")
          == SHA256.digest(ofFile: "\(folder)/built-in/\(name)"))
    }
    try describe("score", copies: 3)
    #expect(try run(["score: {keep: 2, of: 4}", "swap", "emit"], output: "three").exitCode == 0)
    #expect(
      try SHA256.digest(ofFile: folder + "/three/model.safetensors")
        == SHA256.digest(ofFile: folder + "/out/model.safetensors"))
  }

  @Test func aRefinerAndAnEvaluationReport() throws {
    let result = try run(
      ["warmStart: {method: ria, keep: 2, of: 4}", "refine", "emit", "measure"], ["--json"])
    #expect(result.exitCode == 0, "\(result.errors)")
    let refined = (result.json["totals"]?.array ?? []).first { $0["stage"]?.string == "refine" }
    #expect((refined?["lossBefore"]?.double ?? 0) > 0 && (refined?["lossAfter"]?.double ?? 0) > 0)
    #expect(result.output.contains("\"files\""))
  }

  @Test(arguments: [
    ("shape", ", 1], not "), ("name", "it has: score"), ("infinite", "not a finite number"),
    ("no file", "has not written the file"), ("no safetensors", "answer.safetensors"),
    ("pattern", "does not keep the pattern 2:4"), ("two", "other than 0 and 1"),
    ("exit", "exit code 3 before"), ("crash", "signal 6"), ("hang", "I am thinking"),
    ("half", "in the middle of an answer"), ("junk", "no JSON object: \"hello\""),
    ("endless", "more than 1048576 bytes"), ("closes", "signal 9"), ("error", "no such luck"),
    ("other unit", "the unit another"),
  ])
  func aMistakeNamesThePluginAndTheUnitAndLosesNothing(how: String, message: String) throws {
    let broken = try run(["score: {keep: 2, of: 4, how: \(how)}", "emit"])
    #expect(broken.exitCode == 65, "\(broken.errors)")
    let line = broken.errors.split(separator: "\n").first { $0.hasPrefix("espalier: ") } ?? ""
    #expect(line.contains("score/model.layers.0.") && line.contains("plugins/score.yaml"), "\(line)")
    #expect(broken.errors.contains(message), "\(broken.errors)")
    #expect(try Folder.entry(folder + "/out") == nil)
    #expect(try Folder.names(in: folder + "/out.work/partial").isEmpty)
    // The first matrix stays done.
    let status = try Program.run(["status", folder + "/out.work", "--json"]).json
    #expect(status["done"]?.integer == 1)
  }

  @Test func megabytesOnStandardErrorDoNoHarm() throws {
    let result = try run(["score: {keep: 2, of: 4, how: stderr}", "emit"])
    #expect(result.exitCode == 0, "\(result.errors)")
    #expect(result.errors.utf8.count < 100_000)
  }

  @Test func itsVersionAndItsBytesArePartOfTheKey() throws {
    #expect(try run(["score: {keep: 2, of: 4}", "emit"]).exitCode == 0)
    func made() throws -> Int {
      let result = try run(["score: {keep: 2, of: 4}", "emit"], ["--work", folder + "/out.work"])
      #expect(result.exitCode == 0, "\(result.errors)")
      return result.errors.split(separator: "\n").count {
        $0.hasPrefix("[") && $0.contains("score/") && !$0.contains("done already")
      }
    }
    #expect(try made() == 0)
    try describe("score", more: "# another comment\n")
    try FileManager.default.removeItem(atPath: folder + "/out")
    #expect(try made() == 21)
  }

  @Test(arguments: [
    ("name: a b", "name must be a word"), ("role: prune", "one of score, refine, evaluate"),
    ("version: x", "whole number"), ("command: [./missing.py]", "there is no file"), ("reads: all", "one of"),
    ("fitsWeights: true", "reads: gram"), ("parameters: {keep: {type: flag, default: true}}", "of its own"),
    ("parameters: {p: {type: number, default: 3, to: 1}}", "not a value"),
    ("parameters: {p: {type: number, default: 3, form: 1}}", "no parameter \"form\""),
    ("colour: red", "colour"),
    ("command: []", "no words"), ("memory: much", "a size"), ("[", "YAML"),
  ])
  func aDescriptionThatCannotBeUsedIsRefused(line: String, message: String) throws {
    let key = line.prefix { $0 != ":" }
    let lines = ["name: x", "summary: s", "version: 1", "role: score", "command: [sh]"]
      .filter { !$0.hasPrefix(key + ":") }
    try write((lines + [line, ""]).joined(separator: "\n"), to: "plugins/x.yaml")
    let result = try Program.run(["stages", "--plugins", folder + "/plugins"])
    #expect(result.exitCode == 64 && result.errors.contains("plugins/x.yaml"), "\(result.errors)")
    #expect(result.errors.contains(message), "\(result.errors)")
  }

  @Test func pluginsAreFoundInFoldersTheEnvironmentAndRecipes() throws {
    let given = try Program.run(["stages", "--plugins", folder + "/plugins"])
    let environment = try Program.run(["stages"], environment: ["ESPALIER_PLUGINS": folder + "/plugins"])
    #expect(given.output == environment.output && given.output.contains("plugins/score.yaml"))
    #expect(try !Program.run(["stages"]).output.contains("score.yaml"))
    try write(
      "plugins: [plugins/score.yaml]\nstages:\n  - score: {keep: 2, of: 4}\n  - emit\n", to: "own.yaml")
    for more in [[], ["--plugins", folder + "/plugins"]] {
      let plan = try Program.run(
        ["plan", folder + "/own.yaml", "--model", scene.model, "--output", folder + "/own"] + more)
      #expect(plan.exitCode == 0, "\(plan.errors)")
    }
    try write("plugins: [plugins/none.yaml]\nstages:\n  - emit\n", to: "own.yaml")
    let missing = try Program.run(
      ["plan", folder + "/own.yaml", "--model", scene.model, "--output", folder + "/own"])
    #expect(missing.exitCode != 0 && missing.errors.contains("own.yaml:1:"), "\(missing.errors)")
    // Two with one name.
    try Folder.create(folder + "/more")
    try FileManager.default.copyItem(
      atPath: folder + "/plugins/score.yaml", toPath: folder + "/more/score.yaml")
    let twice = try Program.run(["stages", "--plugins", folder + "/plugins", "--plugins", folder + "/more"])
    #expect(twice.exitCode == 64 && twice.errors.contains("more/score.yaml"), "\(twice.errors)")
  }

  /// The plug-in or the program is killed at random moments; the same command ends with the same bytes.
  @Test func killedAtRandomMomentsItEndsWithTheSameBytes() throws {
    try describe("score", copies: 2)
    let stages = ["score: {keep: 2, of: 4}", "swap", "emit"]
    #expect(try run(stages, output: "whole").exitCode == 0)
    var random = SeededRandom(seed: 3)
    for attempt in 0..<8 {
      var tries: UInt32 = 0
      while true {
        tries += 1
        try #require(tries < 100)
        let isPlugin = attempt % 2 == 0
        // A slow machine may need longer for one unit than a kill leaves it, so each try may last longer.
        let delay = UInt32.random(in: 10_000...400_000 + tries * 20_000, using: &random)
        if isPlugin {
          Thread.detachNewThread {
            usleep(delay)
            _ = try? Program.run(["-9", "-f", "espalier-test-plugin"], of: "/usr/bin/pkill")
          }
        }
        let arguments = [
          "run", folder + "/recipe.yaml", "--model", scene.model, "--output", "\(folder)/cut\(attempt)",
          "--plugins", folder + "/plugins",
        ]
        let code = try Program.run(arguments, killAfter: isPlugin ? nil : delay).exitCode
        if code == 0 { break }
        #expect(code == 137 || code == 65)
      }
      #expect(try scene.digest("cut\(attempt)") == scene.digest("whole"))
    }
  }
}
