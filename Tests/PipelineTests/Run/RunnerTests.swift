import EspalierCore
import EspalierIO
import EspalierTestSupport
import Foundation
import Synchronization
import Testing

@testable import EspalierPipeline

@Suite struct RunnerTests {
  private struct Stop: Error {}

  /// Runs until the n-th call of the hook, which throws; returns whether there were so many calls.
  private func run(_ bench: ProbeBench, _ job: Job, stopAt place: Int) throws -> Bool {
    let calls = Mutex(0)
    let isStopped = Mutex(false)
    do {
      try Probe.$hook.withValue(
        { _ in
          let call = calls.withLock { calls in
            calls += 1
            return calls
          }
          if call == place {
            isStopped.withLock { $0 = true }
            throw Stop()
          }
        }, operation: { _ = try bench.run(job) })
    } catch is Stop {}
    return isStopped.withLock { $0 }
  }

  @Test(arguments: [ProbeBench.recipe, ProbeBench.dense]) func aSecondRunReusesEverything(recipe: String)
    throws
  {
    let bench = try ProbeBench()
    let job = try bench.job(recipe)
    let graph = try UnitGraph(recipe: job.recipe, model: job.model)
    #expect(try Set(bench.run(job)) == Set(graph.units.map(\.id)))
    let results = try bench.results(job)
    let before = try bench.objects(job)
    let reused = Mutex<[String]>([])
    #expect(
      try bench.run(job) { event in
        if case .reused(let unit, _, _) = event { reused.withLock { $0.append(unit) } }
      } == [])
    #expect(reused.withLock { $0 } == graph.units.map(\.id))
    #expect(try bench.results(job) == results && bench.objects(job) == before)
    // Bytes of transient units are gone, but not their manifests.
    let kinds = try ArtifactStore(existing: job.work).manifests()
    #expect(kinds.count == graph.units.count)
    #expect(before.filter { $0.hasSuffix("/hidden") }.isEmpty)
    #expect(before.filter { $0.hasSuffix("/factor") }.count == (recipe == ProbeBench.dense ? 4 : 0))
  }

  /// After an error at the start or the end of any unit, a second run gives the same bytes and makes nothing twice.
  @Test(arguments: [ProbeBench.recipe, ProbeBench.dense]) func anInterruptedRunEndsLikeAnUninterruptedOne(
    recipe: String
  ) throws {
    let bench = try ProbeBench()
    let whole = try bench.job(recipe)
    let units = try bench.run(whole)
    let results = try bench.results(whole)
    var place = 1
    while true {
      let job = try bench.job(recipe, output: "out\(place)", work: "work\(place)")
      guard try run(bench, job, stopAt: place) else { break }
      #expect(try Folder.entry(job.outputs[0].path + "/key") == nil || place > 2 * units.count - 3)
      #expect(try RunHistory(work: job.work).state == .stopped)
      let done = try RunHistory(work: job.work).entries.map(\.unit)
      let plan = try Planner.plan(job)
      let rest = try bench.run(job)
      #expect(plan.doneUnits == done.count && plan.workLeft.commits == rest.count)
      #expect(Set(done).isDisjoint(with: rest) && Set(done).union(rest) == Set(units))
      #expect(try bench.results(job) == results)
      #expect(try Folder.names(in: job.work + "/partial") == [])
      place += 1
    }
    // Two calls per unit.
    #expect(place == 2 * units.count + 1)
    // The same work folder is interrupted many times; a pass has up to six calls.
    let job = try bench.job(recipe, output: "last", work: "last.work")
    var interruptions = 0
    while interruptions < 100, try run(bench, job, stopAt: 7) { interruptions += 1 }
    #expect((4..<100).contains(interruptions))
    #expect(try bench.results(job) == results)
  }

  /// Continues from a copy of the folder at each event, as after a power cut.
  @Test(arguments: [ProbeBench.recipe, ProbeBench.dense]) func aCopyOfTheFolderAtAnyMomentCanBeContinued(
    recipe: String
  ) throws {
    let bench = try ProbeBench()
    let whole = try bench.job(recipe)
    let copies = Mutex(0)
    try bench.run(whole) { event in
      switch event {
      case .began, .committed: break
      default: return
      }
      copies.withLock { copies in
        try? FileManager.default.copyItem(atPath: whole.work, toPath: "\(bench.folder.path)/copy\(copies)")
        copies += 1
      }
    }
    let results = try bench.results(whole)
    let count = copies.withLock { $0 }
    #expect(count > 40)
    for copy in 0..<count {
      let job = try bench.job(recipe, output: "out\(copy)", work: "copy\(copy)")
      #expect(try RunHistory(work: job.work).state == .killed)
      let made = try bench.run(job)
      #expect(Set(made).count == made.count)
      #expect(try bench.results(job) == results)
    }
  }

  @Test func anotherRecipeFindsWhatItShares() throws {
    let bench = try ProbeBench()
    _ = try bench.run(bench.job(ProbeBench.dense))
    let other = try bench.run(bench.job(ProbeBench.dense, overrides: ["better.rounds=9"], output: "out2"))
    #expect(Set(other.map { String($0.prefix { $0 != "/" }) }) == ["better", "write", "score"])
    // With `propagate: pruned` the next block sees the new masks.
    _ = try bench.run(bench.job())
    let pruned = try bench.run(bench.job(overrides: ["better.rounds=9"], output: "out3"))
    #expect(
      pruned.contains("stream/0") && pruned.contains("sum/1/down")
        && !pruned.contains("first/model.layers.0.mlp.down_proj"))
  }

  /// The memory limit decides how many sites stream together.
  @Test(arguments: [1, 200, 201, 1 << 30]) func memoryAndThreadsDecideNoByte(memory: Int) throws {
    let bench = try ProbeBench()
    let sizes = ["sum.memory=100", "stream.memory=1"]
    let wide = try bench.job(overrides: sizes)
    _ = try bench.run(wide)
    let narrow = try bench.job(
      overrides: sizes, output: "o", work: "w", memory: Planner.processBytes + memory, threads: 3)
    let began = Mutex<[String]>([])
    let made = try bench.run(narrow) { event in
      switch event {
      case .began(let unit, _, _, _, _, _, _): began.withLock { $0.append("begin " + unit) }
      case .committed(let unit, _, _, _, _): began.withLock { $0.append("end " + unit) }
      default: break
      }
    }
    #expect(made.count == 21)
    #expect(try bench.results(narrow) == bench.results(wide))
    let sites = began.withLock { $0.filter { $0.contains("sum/0") } }
    #expect(
      sites
        == (memory < 201
          ? ["begin sum/0/attention", "end sum/0/attention", "begin sum/0/down", "end sum/0/down"]
          : ["begin sum/0/attention", "begin sum/0/down", "end sum/0/attention", "end sum/0/down"]))
  }

  @Test func aSecondRunnerIsSentAway() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    let errors = Mutex<[EspalierError?]>([])
    try Probe.$hook.withValue(
      { unit in
        guard unit == "write" else { return }
        let error = failure { try Runner(job) { _ in }.run() }
        errors.withLock { $0.append(error) }
      }, operation: { _ = try bench.run(job) })
    let all = errors.withLock { $0 }
    #expect(all.count == 2)
    for error in all {
      #expect(error?.code == .interrupted && error?.code.exitCode == 75)
      #expect(error?.subject == job.work && error?.message.contains("process \(getpid()) on ") == true)
    }
    // The first run is not disturbed, and the next one can start.
    #expect(try bench.run(job) == [])
  }

  @Test func errorsNameTheUnit() throws {
    let bench = try ProbeBench()
    let error = failure {
      try Probe.$hook.withValue({ unit in if unit == "sum/1/down" { throw EspalierError.badInput("full.") } })
      {
        _ = try bench.run(bench.job())
      }
    }
    #expect(error?.code == .badInput && error?.description == "sum/1/down: full.")
  }

  /// If bytes change after their digest went into a key, no artifact is committed under that key.
  @Test(arguments: ["words", "sum/0/down", "first/model.layers.1.mlp.down_proj", "write"])
  func aSourceThatChangesDuringARunIsFound(unit: String) throws {
    let bench = try ProbeBench()
    let job = try bench.job(ProbeBench.recipe, output: "out", work: "work")
    let error = failure {
      try Probe.$hook.withValue(
        { if $0 == unit { try Probe.write("upon a time, once", to: bench.corpus) } },
        operation: { _ = try bench.run(job) })
    }
    #expect(error?.code == .io && error?.subject == bench.corpus)
    #expect(error?.message.contains("changed or replaced while the run was on") == true)
    #expect(try !RunHistory(work: job.work).entries.map(\.unit).contains(unit))
    #expect(try Folder.names(in: job.work + "/partial") == [])
    let fresh = try bench.job(ProbeBench.recipe, output: "fresh", work: "fresh.work")
    _ = try bench.run(fresh)
    try Folder.remove(job.outputs[0].path)
    _ = try bench.run(job)
    #expect(try bench.results(job) == bench.results(fresh))
  }

  /// Unfinished objects are useless, and may be what fills the disk.
  @Test func aFailedRunLeavesNothingHalfDone() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    #expect(try run(bench, job, stopAt: 9))
    #expect(try Folder.names(in: job.work + "/partial") == [])
  }

  /// A stage of a later revision does not reuse the masks of an earlier one.
  @Test func aNewRevisionRunsAgain() throws {
    let bench = try ProbeBench()
    let job = try bench.job(ProbeBench.dense)
    _ = try bench.run(job)
    let (other, made) = try Probe.$betterRevision.withValue(2) {
      let other = try bench.job(ProbeBench.dense, output: "new")
      return (other, try bench.run(other))
    }
    #expect(Set(made.map { String($0.prefix { $0 != "/" }) }) == ["better", "write", "score"])
    #expect(try bench.results(job) != bench.results(other))
  }
}
