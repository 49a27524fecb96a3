import EspalierCore
import EspalierIO
import EspalierPipeline
import EspalierTestSupport
import Testing

@testable import EspalierStages

/// The recipe, the model card and the record that a pruned checkpoint carries.
@Suite struct ModelNotesTests {
  private func evaluation(_ bench: Workbench, windows: Int = 5) -> String {
    "  - evaluate: {text: \"\(bench.corpus)\", length: 32, windows: \(windows), dense: true}"
  }

  private func text(_ output: String, _ name: String) throws -> String {
    try Folder.readText(output + "/" + name)
  }

  @Test func theOutputsRecipeMakesTheSameBytesAgain() throws {
    let bench = try Workbench()
    let output = try bench.run(
      bench.recipe("warmStart: {keep: 2, of: 4}", "swap: {maxSwaps: 100}", last: evaluation(bench)),
      overrides: ["swap.maxSwaps=3", "warmStart.method=ria", "tokenize.samples=5"])
    let recipe = try text(output, "recipe.yaml")
    let again = try bench.run(recipe, output: "again", work: "again.work")
    #expect(try bench.digest(output) == bench.digest(again))
    #expect(try bench.digest(output).keys.contains("MODEL_CARD.md"))
  }

  /// As if it had been measured from the start, in every file.
  @Test(arguments: ["{}", "{format: compact}", "{format: both}"])
  func aMeasurementIsNotedInAFinishedOutput(emit: String) throws {
    let bench = try Workbench()
    func recipe(_ last: String) -> String {
      bench.recipe("warmStart: {keep: 2, of: 4}", last: last)
        .replacing("  - emit\n", with: "  - emit: \(emit)\n")
    }
    let output = try bench.run(recipe(""))
    #expect(try text(output, "MODEL_CARD.md").contains("Nothing was measured."))
    try bench.run(recipe(evaluation(bench)))
    let whole = try bench.run(recipe(evaluation(bench)), output: "whole", work: "whole.work")
    for suffix in emit.contains("both") ? ["", "-compact"] : [""] {
      #expect(try Verification(folder: output + suffix, on: device).findings.isEmpty)
      #expect(try bench.digest(output + suffix) == bench.digest(whole + suffix))
      let record = try OutputRecord(folder: output + suffix)
      let perplexity = try #require(record.evaluations.first?.report.pruned.perplexities.first)
      #expect(
        try text(output + suffix, "MODEL_CARD.md").contains(
          "\(fixed(perplexity.perplexity, 3)) +- \(fixed(perplexity.error, 3))"))
    }
    // A run that measures nothing forgets nothing.
    let before = try bench.digest(output)
    try bench.run(recipe(""))
    #expect(try bench.digest(output) == before)
  }

  /// Both orders in which a crash can leave the two notes and the record.
  @Test(arguments: [["recipe.yaml"], ["recipe.yaml", "MODEL_CARD.md"]])
  func aCrashBetweenTheNotesIsMadeGood(written: [String]) throws {
    let bench = try Workbench()
    let plain = bench.recipe("warmStart: {keep: 2, of: 4}")
    let measured = bench.recipe("warmStart: {keep: 2, of: 4}", last: evaluation(bench))
    let output = try bench.run(plain)
    let whole = try bench.run(measured, output: "whole", work: "whole.work")
    for name in written { try bench.write(text(whole, name), to: output + "/" + name) }
    #expect(try !Verification(folder: output, on: device).findings.isEmpty)
    try bench.run(measured)
    #expect(try Verification(folder: output, on: device).findings.isEmpty)
    #expect(try bench.digest(output) == bench.digest(whole))
  }

  @Test(arguments: [false, true]) func aNoteThatIsGoneOrRottenIsWrittenAgain(measures: Bool) throws {
    let bench = try Workbench()
    let recipe = bench.recipe("warmStart: {keep: 2, of: 4}", last: measures ? evaluation(bench) : "")
    let output = try bench.run(recipe)
    let before = try bench.digest(output)
    try Folder.remove(output + "/MODEL_CARD.md")
    try bench.run(recipe)
    #expect(try bench.digest(output) == before)
    try bench.write(text(output, "recipe.yaml").replacing("keep", with: "kept"), to: output + "/recipe.yaml")
    #expect(try !Verification(folder: output, on: device).findings.isEmpty)
    try bench.run(recipe)
    #expect(try bench.digest(output) == before)
  }

  @Test func aCardThatWasEditedIsLeftAlone() throws {
    let bench = try Workbench()
    let output = try bench.run(bench.recipe("warmStart: {keep: 2, of: 4}"))
    try bench.write("mine", to: output + "/MODEL_CARD.md")
    try bench.run(bench.recipe("warmStart: {keep: 2, of: 4}", last: evaluation(bench)))
    #expect(try text(output, "MODEL_CARD.md") == "mine")
    #expect(try OutputRecord(folder: output).evaluations.count == 1)
    #expect(
      try Verification(folder: output, on: device).findings.map(\.subject) == [output + "/MODEL_CARD.md"])
    // The weights are as they were: nothing is set aside.
    #expect(try Folder.entry(output + ".damaged") == nil)
  }

  @Test func packingKeepsTheNotes() throws {
    let bench = try Workbench()
    let output = try bench.run(bench.recipe("warmStart: {keep: 2, of: 4}", last: evaluation(bench)))
    let (packed, back) = (bench.folder.path + "/packed", bench.folder.path + "/back")
    _ = try Repacking(output, to: packed, .pack(describing: false)) { _, _ in }
    _ = try Repacking(packed, to: back, .unpack) { _, _ in }
    #expect(try bench.digest(back) == bench.digest(output))
    #expect(try text(packed, "MODEL_CARD.md") == text(output, "MODEL_CARD.md"))
    #expect(try Verification(folder: packed, on: device).findings.isEmpty)
  }

  @Test func theRecordNamesWhatWentIn() throws {
    let bench = try Workbench()
    let output = try bench.run(bench.recipe("warmStart: {keep: 2, of: 4}"))
    let json = try Folder.readJSON(output + "/espalier.json")
    #expect(json["version"]?.string == Release.version)
    #expect(json["sources"]?.array?.count == 1)
    #expect(
      json["sources"]?.array?.first?["sha256"]?.string == (try SHA256.digest(ofFile: bench.corpus).hex))
    let first = json["model"]?["sha256"]?.string
    // Other tensors, another digest.
    var checkpoint = TinyCheckpoint()
    checkpoint.seed += 1
    let other = try Workbench(checkpoint)
    let second = try Folder.readJSON(
      other.run(other.recipe("warmStart: {keep: 2, of: 4}")) + "/espalier.json")
    #expect(first != nil && first != second["model"]?["sha256"]?.string)
  }

  /// Only what the source states, and nothing that could be more than a word.
  @Test(arguments: [
    ("---\nlicense: apache-2.0\n---\n", "license: apache-2.0\n"),
    ("---\r\nlicense: llama3.2\r\npipeline_tag: text-generation\r\n---\r\n", "license: llama3.2\n"),
    ("---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\n", "license_link: LICENSE\n"),
    ("license: mit\n", nil), ("---\ntitle: x\n---\nlicense: mit\n", nil), ("", nil),
    ("---\n  license: mit\n---\n", nil), ("---\nlicense: [mit, \"x\"]\n---\n", nil),
    ("---\nlicense: mit # comment\n---\n", nil), ("---\nlicense: *a\n---\n", nil),
    ("------\nlicense: mit\n", nil),
  ])
  func theLicenseIsThatOfTheSource(card: String, line: String?) throws {
    let bench = try Workbench()
    try bench.write(card, to: bench.model + "/README.md")
    let output = try bench.run("stages: [{warmStart: {method: magnitude, keep: 2, of: 4}}, emit]")
    #expect(try text(output, "README.md") == card)
    let front = try text(output, "MODEL_CARD.md").split(separator: "# ")[0]
    #expect(line.map { front.contains($0) } ?? !front.contains("license"))
    #expect(front.hasPrefix("---\nbase_model: model\n"))
  }

  @Test func namesFromTheHub() throws {
    for (folder, noted, name) in [
      ("SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
      ("mine", "HuggingFaceTB/SmolLM2-135M", "mine"), ("x", "/home/me/x", "x"), ("x", "a/b/x", "x"),
      ("models--org--name/snapshots/0123abcd", "", "org/name"), ("My model", "", "My model"),
    ] {
      let place = try TemporaryFolder()
      let path = place.path + "/" + folder
      var checkpoint = TinyCheckpoint()
      checkpoint.blocks = 1
      try checkpoint.write(to: path)
      var configuration = try Folder.readJSON(path + "/config.json").object?.members ?? []
      configuration.append(("_name_or_path", .string(noted)))
      try Folder.writeAtomically(
        Array(JSON.object(JSONObject(configuration)).text.utf8), to: path + "/config.json")
      #expect(try BaseModel(Checkpoint(folder: path)).name == name)
    }
  }

  @Test func textFromFilesCannotLeaveItsPlaceInTheCard() {
    #expect(ModelCard.code("a`b|c\nd") == "`a?b?c?d`")
    #expect(ModelCard.plain("[x](y) <b> | #\n") == "\\[x\\](y) \\<b\\> \\| \\# ")
  }
}
