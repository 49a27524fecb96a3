import EspalierCore
import EspalierIO
import EspalierTestSupport
import Foundation
import Testing

/// A model that is larger than the memory.
@Suite struct MemoryLimitTests {
  private static let tool = Places.repository + "/tools/memory_limit"
  /// Whether a memory cgroup can be made here.
  private static let isPossible = (try? Program.run(["64MiB", "--", "true"], of: tool))?.exitCode == 0

  /// A checkpoint of 228 MiB in a cgroup of about half of that: files that are read and written count, too.
  @Test(
    .enabled(if: isPossible, "no memory cgroup can be made here; tools/memory_limit says what it takes"),
    .disabled(if: Places.isSanitized, "a sanitizer has memory of its own"))
  func aModelLargerThanTheMemoryIsPrunedToTheSameBytes() throws {
    let scene = try TemporaryFolder(onDisk: true)
    let folder = scene.path
    defer { withExtendedLifetime(scene) {} }
    let model = folder + "/model"
    let synth = try Program.run(
      [
        "synth", "--shape", "hidden=768,inner=2048,heads=12,keyHeads=4,vocabulary=4000,blocks=18", "--output",
        model,
      ], of: Folder.parent(of: Program.path) + "/espalier-bench")
    try #require(synth.exitCode == 0, "\(synth.errors)")
    try Folder.writeAtomically(Array(TinyCheckpoint.text(1000).utf8), to: folder + "/text.txt")
    // Every block streams, but only a few are pruned, since debug builds are slow.
    func arguments(_ command: String, _ output: String, memory: String) -> [String] {
      [
        command, "\(Places.repository)/pipelines/sparseswaps-2of4.yaml", "--model", model, "--output",
        "\(folder)/\(output)", "--memory", memory, "--json", "--set",
        "tokenize.corpus=\(folder)/text.txt", "--set", "tokenize.samples=2", "--set", "tokenize.length=64",
        "--set", "tokenize.draw=consecutive", "--set", #"warmStart.targets=["re:.*layers\\.(0|17)\\..*"]"#,
      ]
    }
    let plan = try Program.run(arguments("plan", "roomy", memory: "1GiB"))
    let least = try #require(plan.json["leastMemory"]?.integer, "\(plan.errors)")
    // What the kernel needs for reading and writing.
    let limit = least + (24 << 20)
    let size = try #require(try Folder.entry(model + "/model.safetensors")).size
    #expect(limit < size * 6 / 10)

    #expect(try Program.run(arguments("run", "roomy", memory: "1GiB")).exitCode == 0)
    // Pages that are in memory already would not be counted.
    for name in try Folder.names(in: model) { try File(reading: model + "/" + name).forgetCached() }
    let run = try Program.run(
      ["\(limit)", "--", Program.path] + arguments("run", "limited", memory: "\(least)"), of: Self.tool)
    #expect(run.exitCode == 0, "\(run.errors)")
    let words = run.errors.split { $0 == " " || $0 == "\n" }
    #expect(words.contains("limit=\(limit)") && words.contains("killed=0") && !words.contains("reached=0"))
    for name in try Folder.names(in: folder + "/roomy") {
      let digests = try ["roomy", "limited"].map { try SHA256.digest(ofFile: "\(folder)/\($0)/\(name)") }
      #expect(digests[0] == digests[1], "\(name)")
    }
  }

  @Test(.enabled(if: isPossible, "no memory cgroup can be made here; tools/memory_limit says what it takes"))
  func theLimitHolds() throws {
    let run = try Program.run(
      ["16MiB", "--", "bash", "-c", "x=$(head -c 100000000 /dev/zero | tr '\\0' x)"], of: Self.tool)
    #expect(run.exitCode != 0 && run.errors.contains("limit=16777216") && !run.errors.contains("killed=0"))
    #expect(try Program.run(["64MiB", "--", "bash", "-c", "exit 3"], of: Self.tool).exitCode == 3)
    #expect(try Program.run(["much", "--", "true"], of: Self.tool).exitCode == 64)
  }
}
