import EspalierCore
import EspalierIO
import EspalierTestSupport
import Foundation
import Testing

/// Trouble around a run: sources that change, outputs that get damaged, results that cannot be printed.
@Suite struct ReliabilityTests {
  private let scene: Scene
  private var output: String { scene.folder.path + "/out" }

  init() throws { scene = try Scene() }

  private func run(_ more: [String] = []) throws -> Program.Result {
    try Program.run(scene.arguments("wanda-50", more))
  }

  @Test func aRottenOutputIsSetAsideAndWrittenAgain() throws {
    #expect(try run().exitCode == 0)
    let good = try scene.digest("out")
    for name in ["model.safetensors", "config.json"] {
      var bytes = try Folder.read("\(output)/\(name)")
      bytes[bytes.count / 2] ^= 4
      try File(writing: "\(output)/\(name)").write(bytes, at: 0)
      let verified = try Program.run(["verify", output])
      #expect(verified.exitCode == 65 && verified.errors.contains("\(output)/\(name)"))
      let again = try run()
      #expect(again.exitCode == 0 && again.errors.contains("\(output)/\(name): the bytes are not those"))
      #expect(try scene.digest("out") == good)
      #expect(try Folder.read("\(output).damaged/\(name)") == bytes)
      try Folder.remove(output + ".damaged")
    }
  }

  @Test func everyFlippedByteOfTheRecordIsNoticed() throws {
    #expect(try run().exitCode == 0)
    let path = output + "/espalier.json"
    let good = try Folder.read(path)
    for place in stride(from: 0, to: good.count, by: max(1, good.count / 12)) {
      var bad = good
      bad[place] ^= 1
      try File(writing: path).write(bad, at: 0)
      #expect(try Program.run(["verify", output]).exitCode == 65, "byte \(place)")
    }
  }

  @Test func verifyNamesADamagedManifest() throws {
    #expect(try run().exitCode == 0)
    let manifests = output + ".work/manifests"
    let folder = try #require(try Folder.names(in: manifests).first)
    let name = try #require(try Folder.names(in: manifests + "/" + folder).first)
    try File(writing: "\(manifests)/\(folder)/\(name)").write(Array("X".utf8), at: 100)
    let result = try Program.run(["verify", output + ".work"])
    #expect(result.exitCode == 65 && result.errors.contains(name) && result.errors.contains("manifest"))
  }

  /// Two work folders have two locks, but share one output.
  @Test func twoRunsCannotWriteOneOutput() throws {
    let partial = output + ".partial"
    func second() throws -> Program.Result {
      try Program.run(scene.arguments("wanda-50", ["--work", scene.folder.path + "/second"]))
    }
    do {
      let held = try FolderLock(folder: partial, .output(output))
      let refused = try second()
      #expect(refused.exitCode == 75, "\(refused.errors)")
      #expect(refused.errors.contains("\(output): another run (process \(getpid()) on "))
      #expect(refused.errors.contains("wait for it, or choose another with --output"))
      #expect(try Folder.entry(output) == nil && Folder.names(in: partial) == ["lock"])
      withExtendedLifetime(held) {}
    }
    // What a killed run leaves is neither a lock nor part of the next output.
    try Folder.create(partial + "/model")
    try Folder.writeAtomically([1], to: partial + "/model/half")
    #expect(try second().exitCode == 0)
    #expect(try Folder.entry(partial) == nil)
    let good = try scene.digest("out")
    // Of two runs at once, one is refused or finds what the other wrote.
    try Folder.remove(output)
    try Folder.remove(scene.folder.path + "/second")
    var codes: [Int32] = []
    let first = try Program.run(scene.arguments("wanda-50")) { line in
      if codes.isEmpty, line.hasPrefix("[") { codes.append((try? second().exitCode) ?? -1) }
      return false
    }
    #expect(first.exitCode == 0 && [0, 75].contains(codes.first), "\(codes) \(first.errors)")
    #expect(try scene.digest("out") == good && Folder.entry(partial) == nil)
    #expect(try Program.run(["verify", output]).exitCode == 0)
  }

  /// SIGBUS is the system's only report that a mapped file became shorter.
  @Test func aShardThatBecomesShorterIsNamed() throws {
    let shard = scene.model + "/model.safetensors"
    let good = try Folder.read(shard)
    let result = try Program.run(scene.arguments("sparseswaps-60")) { line in
      if line.contains("] capture/embed") { try? File(writing: shard).resize(to: 4096) }
      return false
    }
    #expect(result.exitCode == 74, "\(result.exitCode) \(result.errors)")
    #expect(result.errors.contains("\(shard): cannot be read any more"))
    try Folder.writeAtomically(good, to: shard)
    #expect(try Program.run(scene.arguments("sparseswaps-60")).exitCode == 0)
  }

  @Test func aReplacedShardIsNoticed() throws {
    let shard = scene.model + "/model.safetensors"
    var other = try Folder.read(shard)
    other[other.count - 100] ^= 1
    let result = try Program.run(scene.arguments("sparseswaps-60")) { line in
      if line.contains("] capture/embed") { try? Folder.writeAtomically(other, to: shard) }
      return false
    }
    #expect(result.exitCode == 74 && result.errors.contains("replaced while the run was on"))
    #expect(try Program.run(scene.arguments("sparseswaps-60")).exitCode == 0)
    #expect(try Program.run(scene.arguments("sparseswaps-60", output: "fresh")).exitCode == 0)
    #expect(try scene.digest("out") == scene.digest("fresh"))
  }

  @Test func resultsThatCannotBePrintedAreAnError() throws {
    #expect(try run().exitCode == 0)
    for command in [["status", output + ".work"], ["report", output + ".work", "--json"], ["stages"]] {
      let result = try Program.run(command, output: "/dev/full")
      #expect(result.exitCode == 74 && result.errors.contains("cannot write to standard output"))
    }
  }

  /// Without memory for the stacks of its threads, the program would wait for them forever.
  @Test(.disabled(if: Places.isSanitized, "a sanitizer needs terabytes of address space"))
  func tooLittleAddressSpaceIsToldAtOnce() throws {
    let limit = "ulimit -v 300000 && exec \"$0\" \"$@\""
    for command in [
      scene.arguments("wanda-50"), ["evaluate", scene.model, "--text", scene.text, "--length", "32"],
    ] {
      let result = try Program.run(["-c", limit, Program.path] + command, of: "/bin/sh")
      #expect(result.exitCode == 64 && result.errors.contains("of address space, but the limit is"))
    }
  }

  @Test(.disabled(if: Places.isSanitized, "a sanitizer has files of its own"))
  func limitsOfFilesAreErrorsOfTheWrite() throws {
    for (limit, text) in [("-f 8", "ulimit -f"), ("-n 5", "ulimit -n")] {
      let script = "ulimit \(limit) && exec \"$0\" \"$@\""
      let result = try Program.run(
        ["-c", script, Program.path] + scene.arguments("wanda-50"), of: "/bin/sh")
      #expect(result.exitCode == 74 && result.errors.contains(text), "\(result.exitCode) \(result.errors)")
    }
    #expect(try run().exitCode == 0)
  }

  @Test func explainNamesWhatChanged() throws {
    #expect(try run().exitCode == 0)
    let unit = "warmStart/model.layers.0.mlp.down_proj"
    let first = try Program.run(["explain", output + ".work", unit])
    #expect(first.exitCode == 0 && first.output.contains("nothing else was made by this stage"))
    #expect(first.output.contains("parameters.method"))
    try Folder.remove(output)
    #expect(try run(["--set", "warmStart.sparsity=0.25"]).exitCode == 0)
    let second = try Program.run(["explain", output + ".work", unit])
    #expect(second.output.contains("because\n  parameters.sparsity changed from 0.5 to 0.25\n"))
    try Folder.remove(output)
    #expect(try run(["--set", "tokenize.samples=11"]).exitCode == 0)
    let third = try Program.run(["explain", output + ".work", "emit", "--json"]).json
    let causes = third["causes"]?.array ?? []
    #expect(causes.contains { $0["unit"]?.string == "tokenize" }, "\(third.text)")
    let wrong = try Program.run(["explain", output + ".work", "warmStart/x"])
    #expect(wrong.exitCode == 64 && wrong.errors.contains(unit.dropLast(13)))
  }
}
