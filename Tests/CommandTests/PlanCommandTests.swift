import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

/// The output of `espalier plan`.
@Suite struct PlanCommandTests {
  @Test func jsonHasAllOfThePlan() throws {
    let scene = try Scene()
    let result = try Program.run(scene.arguments("sparseswaps-60", command: "plan", ["--json"]))
    #expect(result.exitCode == 0, "\(result.errors)")
    let plan = result.json
    for key in ["units", "peakMemory", "leastMemory", "workBytes", "diskBytes"] {
      #expect((plan[key]?.integer ?? 0) > 0, "\(key)")
    }
    let output = plan["outputs"]?.array?.first
    #expect(output?["kind"]?.string == "checkpoint" && output?["path"]?.string == scene.folder.path + "/out")
    #expect((output?["bytes"]?.integer ?? 0) > 0)
    let coverage = plan["coverage"]
    let places = ["pruned", "left", "fixed", "unused"].flatMap { coverage?[$0]?.array ?? [] }
    #expect(places.reduce(0) { $0 + ($1["parameters"]?.integer ?? 0) } == coverage?["parameters"]?.integer)
    for key in ["operations", "memory", "hash", "write", "read", "commitSeconds"] {
      #expect((plan["rates"]?[key]?.double ?? 0) > 0, "\(key)")
    }
    for codec in ["none", "lz4", "zstd:1"] {
      #expect((plan["rates"]?["encode"]?[codec]?.double ?? 0) > 0, "\(codec)")
      #expect((plan["rates"]?["decode"]?[codec]?.double ?? 0) > 0, "\(codec)")
    }
    let stages = plan["stages"]?.array ?? []
    #expect(stages.count == 7)
    let keys = [
      "operations", "bf16Operations", "memoryBytes", "readBytes", "writtenBytes", "hashedBytes",
      "encodedBytes",
      "decodedBytes", "scratchBytes", "commits", "seconds",
    ]
    for stage in stages {
      #expect(stage["work"]?.object?.members.map(\.key) == keys)
      #expect((stage["work"]?["seconds"]?.double ?? 0) > 0 || stage["idle"]?.string != nil)
      #expect((stage["memory"]?["total"]?.integer ?? -1) >= 0)
    }
    let sum = stages.reduce(0.0) { $0 + ($1["work"]?["seconds"]?.double ?? 0) }
    #expect(abs(sum - (plan["work"]?["seconds"]?.double ?? 0)) < 1e-6 * sum)
    let other = plan["otherPropagation"]
    #expect(other?["propagate"]?.string == "sites")
    let operations = [plan["work"], other?["work"]].map {
      ($0?["operations"]?.double ?? 0) + ($0?["bf16Operations"]?.double ?? 0)
    }
    #expect(operations[1] > 0 && operations[1] < operations[0])
    // There is only what the user put there.
    #expect(try Folder.names(in: scene.folder.path) == ["model", "text.txt"])
  }

  /// A plan that is killed while it measures cannot clean up; the next one does.
  @Test func whatAKilledPlanLeftIsRemoved() throws {
    let scene = try Scene()
    let (place, name) = (scene.folder.path, "espalier-measurement-")
    func plan() throws -> Program.Result { try Program.run(scene.arguments("wanda-50", command: "plan")) }
    for name in [name + "77", name + "78", name + "notes", name + "79"] {
      try Folder.create("\(place)/\(name)")
      try Folder.writeAtomically([1], to: "\(place)/\(name)/file.safetensors")
      // A folder without a lock was made by somebody else.
      if !name.hasSuffix("79") { try Folder.writeAtomically([], to: "\(place)/\(name)/lock") }
    }
    do {
      let running = try FolderLock(folder: "\(place)/\(name)78")
      #expect(try plan().exitCode == 0)
      withExtendedLifetime(running) {}
    }
    let others = [name + "79", name + "notes", "model", "text.txt"]
    #expect(try Folder.names(in: place) == [name + "78"] + others)
    // The work folder may have been made in the meantime.
    try Folder.create("\(place)/out.work")
    #expect(try plan().exitCode == 0)
    #expect(try Folder.names(in: place) == Array(others.prefix(3)) + ["out.work", "text.txt"])
  }

  /// A Gram matrix of 400 MiB is made and used for masks with less memory; stages that need all of it at once say so.
  @Test func aGramMatrixWiderThanTheMemory() throws {
    let scene = try Scene()
    let model = scene.folder.path + "/wide"
    let synth = try Program.run(
      [
        "synth", "--shape", "hidden=64,inner=10240,heads=1,keyHeads=1,vocabulary=1000,blocks=1", "--output",
        model,
      ], of: Folder.parent(of: Program.path) + "/espalier-bench")
    try #require(synth.exitCode == 0, "\(synth.errors)")
    func plan(_ recipe: String) throws -> Program.Result {
      var arguments = scene.arguments(
        recipe, command: "plan", ["--memory", "300MiB", "--set", "factor.kind=gram"])
      if let place = arguments.firstIndex(of: "--model") { arguments[place + 1] = model }
      return try Program.run(arguments)
    }
    let masks = try plan("wanda-50")
    #expect(masks.exitCode == 0, "\(masks.errors)")
    let swaps = try plan("sparseswaps-60")
    #expect(swaps.exitCode == 64)
    for words in ["needs at least", "mlp.down_proj", "400 MiB of it a Gram matrix", "kind: svd"] {
      #expect(swaps.errors.contains(words), "\(swaps.errors)")
    }
  }

  /// A text is held whole; JSON lines one at a time.
  @Test(arguments: [("txt", Int32(64)), ("jsonl", 0), ("json", 0)])
  func aTextLargerThanTheMemory(ending: String, code: Int32) throws {
    let scene = try Scene()
    let text = "\(scene.folder.path)/large.\(ending)"
    let line = "{\"text\": \"\(TinyCheckpoint.text(100))\"}\n".replacing("\n", with: " ") + "\n"
    let file = try File(writing: text)
    try file.write(Array(line.utf8), at: 0)
    try file.resize(to: 1 << 30)
    let plan = try Program.run(
      scene.arguments(
        "wanda-50", command: "plan", ["--memory", "300MiB", "--set", "tokenize.corpus=\(text)"]))
    #expect(plan.exitCode == code, "\(plan.errors)")
    #expect(plan.errors.contains("holds a text whole") == (code != 0), "\(plan.errors)")
  }

  /// Plan and report say how many samples come from where.
  @Test func aMixOfCorporaIsTold() throws {
    let scene = try Scene()
    let recipe = scene.folder.path + "/mine.yaml"
    try Folder.create(scene.folder.path + "/more")
    try Folder.writeAtomically(Array(TinyCheckpoint.text(3000).utf8), to: scene.folder.path + "/more/a.txt")
    try Folder.writeAtomically(Array(TinyCheckpoint.text(3000).utf8), to: scene.folder.path + "/more/b.txt")
    try Folder.writeAtomically(
      Array(
        """
        extends: \(Places.repository)/pipelines/wanda-50.yaml
        stages:
          - tokenize: {corpus: [{file: ${TEXT}, weight: 2}, ${MORE}], samples: 12, length: 32}

        """.utf8), to: recipe)
    let told =
      "8 from text.txt (weight 2), 4 from 2 files of more (weight 1)"
    func run(_ command: String) throws -> Program.Result {
      try Program.run([
        command, recipe, "--model", scene.model, "--output", scene.folder.path + "/out", "--define",
        "TEXT=\(scene.text)", "--define", "MORE=\(scene.folder.path)/more",
      ])
    }
    let plan = try run("plan")
    #expect(plan.exitCode == 0 && plan.output.contains(told), "\(plan.output)\(plan.errors)")
    let pruned = try run("run")
    #expect(pruned.exitCode == 0, "\(pruned.errors)")
    let report = try Program.run(["report", scene.folder.path + "/out.work"])
    #expect(report.output.contains(told), "\(report.output)")
  }

  @Test func peopleSeeTimesAndMemory() throws {
    let scene = try Scene()
    let text = try Program.run(scene.arguments("wanda-50", command: "plan")).output
    for word in ["memory at most", "would do", "in all", "GFLOP", "time", "this machine"] {
      #expect(text.contains(word), "\(text)")
    }
  }
}
