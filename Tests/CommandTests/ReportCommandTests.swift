import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

/// Reports as users ask for them.
@Suite struct ReportCommandTests {
  private func run(_ scene: Scene, output: String = "out", _ more: [String] = []) throws -> String {
    let evaluation = [
      "--set", "evaluate.text=\(scene.text)", "--set", "evaluate.length=32", "--set", "evaluate.windows=3",
      "--set", "evaluate.dense=true",
    ]
    let result = try Program.run(
      scene.arguments("sparseswaps-2of4", output: output, evaluation + more))
    #expect(result.exitCode == 0, "\(result.errors)")
    return "\(scene.folder.path)/\(output).work"
  }

  @Test func totalsComeFirstAndAPipeHasNoColours() throws {
    let scene = try Scene()
    let work = try run(scene)
    let usual = try Program.run(["report", work], environment: ["TERM": "xterm"])
    let lines = usual.output.split(separator: "\n").map(String.init)
    #expect(usual.exitCode == 0 && !usual.output.contains("\u{1B}") && !usual.output.contains("█"))
    #expect(
      lines.prefix(7).map { $0.prefix { $0 != " " } } == [
        "model", "calibration", "sparsity", "perplexity", "output", "time", "peak",
      ])
    #expect(lines[0].contains("model, pruned to 2:4") && lines[1].contains("text.txt, taken in order"))
    #expect(lines[2].contains("50.0 %") && lines[3].contains(" -> "))
    let quiet = try Program.run(["report", work, "--quiet"]).output
    #expect(quiet.split(separator: "\n").count == 7)
    #expect(usual.output.hasPrefix(quiet))
    // Three blocks with seven matrices and two stages.
    let matrices = try Program.run(["report", work, "--matrices"]).output
    func named(_ text: String) -> Int { text.split(separator: "\n").count { $0.hasPrefix("model.layers.") } }
    #expect(named(usual.output) == 0 && named(matrices) == 42)
    #expect(try Program.run(["report", work, "--quiet", "--verbose"]).exitCode == 64)
  }

  @Test func pagesAndTablesAreFiles() throws {
    let scene = try Scene()
    let work = try run(scene)
    let (page, table) = (scene.folder.path + "/page.html", scene.folder.path + "/table.csv")
    let result = try Program.run(["report", work, "--html", page, "--csv", table])
    #expect(result.exitCode == 0 && result.output == "\(page)\n\(table)\n", "\(result.errors)")
    let text = try Folder.readText(page)
    #expect(
      text.hasPrefix("<!DOCTYPE html>") && text.contains("pruned to 2:4") && text.hasSuffix("</html>\n"))
    #expect(text.contains("data:image/png;base64,") && !text.contains("cannot be read"))
    #expect(try Folder.readText(table).split(separator: "\r\n").count == 1 + 42)
    #expect(try Program.run(["report", work, "--csv", "-"]).output == Folder.readText(table))
    let nowhere = try Program.run(["report", work, "--html", scene.folder.path + "/no/page.html"])
    #expect(nowhere.exitCode == 74 && nowhere.errors.contains("no/page.html"))
  }

  @Test func twoRunsAreCompared() throws {
    let scene = try Scene()
    let works = [try run(scene), try run(scene, output: "two", ["--set", "swap.maxSwaps=1"])]
    let text = try Program.run(["report"] + works)
    #expect(text.exitCode == 0 && text.output.contains("output error removed"), "\(text.errors)")
    let json = try Program.run(["report"] + works + ["--json"]).json
    let rows = json["groups"]?.array?.flatMap { $0["rows"]?.array ?? [] } ?? []
    func value(_ name: String, _ which: String) -> Double? {
      rows.first { $0["name"]?.string == name }?[which]?.double
    }
    let (first, second) = (value("output error removed", "first"), value("output error removed", "second"))
    #expect(try #require(first) > #require(second))
    #expect(value("sparsity", "change") == 0)
    let page = scene.folder.path + "/both.html"
    #expect(try Program.run(["report"] + works + ["--html", page]).exitCode == 0)
    #expect(try Folder.readText(page).contains("<h2>totals</h2>"))
    #expect(try Program.run(["report"] + works + ["--csv", "-"]).exitCode == 64)
  }

  /// From another folder of work, with nothing but what the output holds and the files that it names.
  @Test func theOutputsRecipeMakesTheSameBytesAgain() throws {
    let scene = try Scene()
    _ = try run(scene)
    let again = try Program.run([
      "run", scene.folder.path + "/out/recipe.yaml", "--model", scene.model, "--output",
      scene.folder.path + "/again", "--quiet",
    ])
    #expect(again.exitCode == 0 && again.errors.isEmpty, "\(again.errors)")
    #expect(try scene.digest("again") == scene.digest("out"))
    #expect(try Program.run(["verify", scene.folder.path + "/out"]).exitCode == 0)
  }

  @Test func theVersionIsThatOfTheRecord() throws {
    let version = try Program.run(["--version"])
    #expect(version.exitCode == 0 && version.output == Release.description + "\n")
  }
}
