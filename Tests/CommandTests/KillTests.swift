import EspalierCore
import EspalierIO
import EspalierTestSupport
import Glibc
import Testing

/// A run that is killed and started again ends with the same bytes.
@Suite(.serialized) struct KillTests {
  /// Killed as soon as a unit is done, again and again, in every stage, until nothing is left to do.
  @Test func killedInEveryUnitInTurn() throws {
    let scene = try Scene()
    #expect(try Program.run(scene.arguments("sparseswaps-2of4", output: "whole")).exitCode == 0)
    var killedIn = Set<String>()
    var kills = 0
    while true {
      let result = try Program.run(scene.arguments("sparseswaps-2of4", output: "cut")) { line in
        guard line.hasPrefix("["), !line.contains("done already"),
          let unit = line.split(separator: " ").dropFirst().first
        else { return false }
        killedIn.insert(String(unit.prefix { $0 != "/" }))
        return true
      }
      if result.exitCode == 0 { break }
      #expect(result.exitCode == 137, "\(result.errors)")
      kills += 1
      try #require(kills < 200)
    }
    #expect(kills > 40)
    #expect(killedIn.isSuperset(of: ["tokenize", "capture", "factor", "warmStart", "swap"]))
    #expect(try scene.digest("cut") == scene.digest("whole"))
    #expect(try Program.run(["verify", scene.folder.path + "/cut.work"]).exitCode == 0)
  }

  /// Killed at random moments, including the middle of units and of emit.
  @Test func killedAtRandomMoments() throws {
    let scene = try Scene()
    #expect(try Program.run(scene.arguments("sparseswaps-60", output: "whole")).exitCode == 0)
    var random = SeededRandom(seed: 17)
    for attempt in 0..<6 {
      let output = "cut\(attempt)"
      var finished = false
      for _ in 0..<60 where !finished {
        let delay = UInt32.random(in: 20_000...400_000, using: &random)
        finished =
          try Program.run(scene.arguments("sparseswaps-60", output: output), killAfter: delay).exitCode == 0
      }
      if !finished {
        #expect(try Program.run(scene.arguments("sparseswaps-60", output: output)).exitCode == 0)
      }
      #expect(try scene.digest(output) == scene.digest("whole"))
    }
  }

  /// Ctrl-C while units are left: the run stops and says how to continue. On a busy machine a short run may end before it gets the
  /// signal, so there are several attempts, one of which must be interrupted.
  @Test func aSignalEndsTheRunWithAWordOnHowToGoOn() throws {
    let scene = try Scene()
    #expect(try Program.run(scene.arguments("sparseswaps-60", output: "whole")).exitCode == 0)
    for attempt in 0..<30 {
      let output = "cut\(attempt)"
      var isSent = false
      let result = try Program.run(scene.arguments("sparseswaps-60", output: output), signal: SIGINT) {
        line in
        isSent = isSent || line.hasPrefix("[")
        return isSent
      }
      if result.exitCode == 0 { continue }
      #expect(isSent && result.exitCode == 75 && result.errors.contains("The same command continues"))
      #expect(try Folder.entry(scene.folder.path + "/" + output) == nil)
      #expect(try Program.run(scene.arguments("sparseswaps-60", output: output)).exitCode == 0)
      #expect(try scene.digest(output) == scene.digest("whole"))
      return
    }
    Issue.record("no run was interrupted")
  }

  /// Pack and unpack leave a complete folder or none, whenever they are killed, and the same command then ends well.
  @Test func packAndUnpackAreKilledAtRandomMoments() throws {
    let scene = try Scene()
    let recipe = scene.folder.path + "/recipe.yaml"
    try Folder.writeAtomically(
      Array("stages: [{warmStart: {method: magnitude, sparsity: 0.6}}, {emit: {format: both}}]".utf8),
      to: recipe)
    let (dense, compact) = (scene.folder.path + "/dense", scene.folder.path + "/dense-compact")
    #expect(try Program.run(["run", recipe, "--model", scene.model, "--output", dense]).exitCode == 0)
    var random = SeededRandom(seed: 5)
    for (command, source, expected) in [("pack", dense, compact), ("unpack", compact, dense)] {
      var kills = 0
      for attempt in 0..<40 {
        let output = scene.folder.path + "/\(command)\(attempt)"
        let delay = UInt32.random(in: 5_000...60_000, using: &random)
        let result = try Program.run([command, source, output], killAfter: delay)
        if result.exitCode == 0 { continue }
        #expect(result.exitCode == 137, "\(result.errors)")
        kills += 1
        if try Folder.entry(output) != nil {
          // Killed after the rename.
          #expect(try scene.digest("\(command)\(attempt)") == scene.digest(Folder.name(of: expected)))
          continue
        }
        let again = try Program.run([command, source, output, "--json"])
        #expect(again.exitCode == 0 && again.json["matrices"]?.integer == 21, "\(again.errors)")
        #expect(try scene.digest("\(command)\(attempt)") == scene.digest(Folder.name(of: expected)))
        #expect(try Folder.entry(output + ".partial") == nil)
      }
      #expect(kills > 5)
    }
  }

  /// Ctrl-C: an exit code of its own, and nothing is left.
  @Test func aSignalEndsPacking() throws {
    let scene = try Scene()
    let recipe = scene.folder.path + "/recipe.yaml"
    try Folder.writeAtomically(
      Array("stages: [{warmStart: {method: magnitude, sparsity: 0.6}}, emit]".utf8), to: recipe)
    let dense = scene.folder.path + "/dense"
    #expect(try Program.run(["run", recipe, "--model", scene.model, "--output", dense]).exitCode == 0)
    for attempt in 0..<30 {
      let output = scene.folder.path + "/cut\(attempt)"
      let result = try Program.run(["pack", dense, output], signal: SIGINT) { $0.hasSuffix("%") }
      if result.exitCode == 0 { continue }
      #expect(result.exitCode == 75 && result.errors.contains("nothing was written"), "\(result.errors)")
      #expect(try Folder.entry(output) == nil && Folder.entry(output + ".partial") == nil)
      return
    }
    Issue.record("no run was interrupted")
  }
}
