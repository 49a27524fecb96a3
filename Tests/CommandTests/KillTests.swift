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
        defer { isSent = isSent || line.hasPrefix("[") }
        return !isSent && line.hasPrefix("[")
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
}
