import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierPipeline

@Suite struct PlannerTests {
  @Test func aPlanAddsUp() throws {
    let bench = try ProbeBench()
    let job = try bench.job(overrides: ["sum.memory=1000", "stream.memory=30", "words.samples=4"])
    let plan = try Planner.plan(job)
    #expect(plan.stages.map(\.id) == ["words", "stream", "sum", "first", "better", "write", "score"])
    #expect(plan.stages.map(\.units) == [1, 2, 4, 6, 6, 1, 1] && plan.units == 21)
    // A site streams with its source.
    #expect(plan.stages[2].memory.total == 1030 && plan.stages[2].memory.factor == 1000)
    #expect(plan.peakMemory == Planner.processBytes + 1030)
    let tokens = 4 * 8
    let masks = 2 * (8 + 4 + 8)
    let factors = 1000 + 8 * 8
    #expect(
      plan.stages.map(\.artifactBytes) == [tokens * 4, 2 * tokens * 8 * 4, 4 * factors, masks, masks, 0, 0])
    // Two hidden states and two factors at a time, and all else.
    #expect(plan.workBytes == tokens * 4 + 2 * masks + 2 * tokens * 8 * 4 + 2 * factors)
    let files = try job.checkpoint.fileNames().map { try Folder.entry("\(bench.model)/\($0)")?.size ?? 0 }
    #expect(plan.outputBytes == files.reduce(0, +))
    #expect(plan.operations > 0 && plan.readBytes > plan.outputBytes)
    // Nothing is written, not even a folder.
    #expect(try Folder.entry(job.work) == nil && Folder.entry(job.output) == nil)
  }

  @Test func idleStagesSayWhy() throws {
    let bench = try ProbeBench()
    let plan = try Planner.plan(try bench.job(overrides: ["score.tasks=\(bench.corpus)"]))
    #expect(plan.stages[6].units == 0 && plan.stages[6].idleReason == "there is nothing to score.")
    #expect(plan.stages[5].idleReason == nil)
  }

  @Test func tooLittleMemoryIsRefused() throws {
    let bench = try ProbeBench()
    let overrides = ["sum.memory=1048576"]
    let needed = try Planner.plan(try bench.job(overrides: overrides)).peakMemory
    _ = try Planner.plan(try bench.job(overrides: overrides, memory: needed))
    let error = failure { _ = try Planner.plan(try bench.job(overrides: overrides, memory: needed - 1)) }
    #expect(error?.code == .usage)
    #expect(
      error?.description == "this job needs at least 65.0 MiB of memory, but --memory is 65.0 MiB.")
    #expect(
      failure { _ = try Planner.plan(try bench.job(overrides: overrides, memory: 1 << 20)) }?.description
        == "this job needs at least 65.0 MiB of memory, but --memory is 1.00 MiB.")
  }

  @Test func missingFilesAreToldBeforeAnyWork() throws {
    let bench = try ProbeBench()
    for (override, stage) in [
      ("words.corpus=/no/such.txt", "words.corpus"), ("score.tasks=\(bench.model)", "score.tasks"),
    ] {
      let error = failure { _ = try Planner.plan(try bench.job(overrides: [override])) }
      let path = override.split(separator: "=")[1]
      #expect(error?.code == .usage && error?.description == "there is no file \"\(path)\" (\(stage)).")
    }
  }

  @Test func aDiskThatIsTooSmallIsRefused() throws {
    let bench = try ProbeBench()
    let large = ["words.samples=1000000000", "words.length=10000"]
    let job = try bench.job(overrides: large)
    let error = failure { _ = try Planner.plan(job) }
    #expect(error?.code == .io && error?.subject == job.work)
    #expect(error?.message.hasPrefix("the work folder needs at least 618 TiB, but its disk has ") == true)
    // What an earlier run wrote is there already; a file without bytes stands for it.
    try Folder.create(job.work + "/objects/00")
    try File(writing: job.work + "/objects/00/large").resize(to: 1 << 42)
    #expect(failure { _ = try Planner.plan(job) } != nil)
    for part in 0..<170 { try File(writing: job.work + "/objects/00/\(part)").resize(to: 1 << 42) }
    _ = try Planner.plan(job)
  }

  @Test func stagesThatDoNotFitAreTold() throws {
    let bench = try ProbeBench()
    let error = failure {
      _ = try Planner.plan(try bench.job(ProbeBench.recipe.replacing("  - sum\n", with: "")))
    }
    #expect(error?.description.contains("needs a stage `- factor`") == true)
  }

  @Test(arguments: [(8, 128), (1024, 1), (2049, 1), (500, 2), (0, 1024), (1, 1024)])
  func batchesAreWholeSequences(length: Int, sequences: Int) {
    #expect(Batching.sequences(length: length) == sequences)
  }
}
