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
    // A site streams with its source and, if memory allows, with the other site of its block.
    #expect(plan.stages[2].memory.total == 1030 && plan.stages[2].memory.gram == 1000)
    #expect(plan.leastMemory == Planner.processBytes + 1030)
    #expect(plan.peakMemory == Planner.processBytes + 2030)
    let tight = try Planner.plan(
      try bench.job(overrides: ["sum.memory=1000", "stream.memory=30"], memory: plan.leastMemory))
    #expect(tight.peakMemory == plan.leastMemory)
    let tokens = 4 * 8
    let hidden = tokens * 8 * 4
    let masks = 2 * (8 + 4 + 8)
    #expect(plan.stages.map(\.artifactBytes) == [tokens * 4, 2 * hidden, 4 * 1000, masks, masks, 0, 0])
    // The folder is largest when the factors of the second block are made: hidden states are deleted before masks are made.
    #expect(plan.workBytes == tokens * 4 + hidden + masks + 2 * 1000)
    let files = try job.checkpoint.fileNames().map { try Folder.entry("\(bench.model)/\($0)")?.size ?? 0 }
    #expect(plan.outputs[0].bytes == files.reduce(0, +))
    #expect(plan.diskBytes == tokens * 4 + 2 * masks + plan.outputs[0].bytes)
    // Nothing is written, not even a folder.
    #expect(try Folder.entry(job.work) == nil && Folder.entry(job.outputs[0].path) == nil)
  }

  @Test func whatIsReadAndWrittenIsCounted() throws {
    let bench = try ProbeBench()
    let job = try bench.job(overrides: ["sum.memory=1000"])
    let works = try Planner.plan(job).stages.map(\.work)
    let tensors = job.checkpoint.tensors.values.reduce(0) { $0 + $1.byteCount }
    #expect(works.map(\.writtenBytes).prefix(5) == [64, 2 * 512, 4000, 40, 40])
    #expect(works.map(\.commits) == [1, 2, 4, 6, 6, 1, 1])
    // Every tensor and everything that is written is hashed once.
    let plan = try Planner.plan(job)
    #expect(plan.work.hashedBytes == tensors + plan.work.writtenBytes)
    #expect(works[4].readBytes == 2 * (3 * 1000 + 20) + matrixBytes(job))
    // If only one factor fits into memory, the block streams for each site, and its hidden states and tensors are read twice.
    let tight = try Planner.plan(
      try bench.job(overrides: ["sum.memory=1000"], memory: plan.leastMemory)
    ).stages.map(\.work)
    #expect(tight[1].readBytes - works[1].readBytes == 2 * 512 + blockBytes(job))
    #expect(tight[2] == works[2])
  }

  private func matrixBytes(_ job: Job) -> Int {
    job.model.matrices.reduce(0) { $0 + (job.checkpoint.tensors[$1.tensor]?.byteCount ?? 0) }
  }

  private func blockBytes(_ job: Job) -> Int {
    job.model.blocks.flatMap(\.tensors.keys).reduce(0) {
      $0 + (job.checkpoint.tensors[$1]?.byteCount ?? 0)
    }
  }

  @Test func timeIsWorkOverRates() {
    let rates = MachineRates(
      operations: [.f32: 100, .bf16: 200], memory: 10, hash: 20, write: 5, read: 40, commit: 0.5,
      encode: [.lz4: 8, .none: 1000], decode: [.lz4: 16])
    var work = Work(operations: 300, memoryBytes: 20, readBytes: 80, writtenBytes: 10)
    #expect(rates.seconds(work) == 3 + 2 + 2 + 2)
    work.add(operations: 600, .bf16)
    work.hashedBytes = 40
    work.commits = 4
    work.encodedBytes = [.lz4: 24]
    work.decodedBytes = [.lz4: 48]
    #expect(work.allOperations == 900)
    #expect(rates.seconds(work) == 9 + 3 + 2 + 2 + 3 + 3)
    #expect(rates.seconds(work + work) == 2 * rates.seconds(work))
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
    let needed = Planner.processBytes + 1 << 20 + 1
    #expect(try Planner.plan(try bench.job(overrides: overrides)).leastMemory == needed)
    _ = try Planner.plan(try bench.job(overrides: overrides, memory: needed))
    let error = failure { _ = try Planner.plan(try bench.job(overrides: overrides, memory: needed - 1)) }
    // The memory in the message is enough.
    let said = Planner.processBytes >> 20 + 2
    #expect(error?.code == .usage)
    #expect(
      error?.description.hasPrefix("this job needs at least \(said) MiB of memory, but --memory is ") == true)
    _ = try Planner.plan(try bench.job(overrides: overrides, memory: said << 20))
  }

  /// A stage may need less if less is available. A job is refused if it gets less than the least.
  @Test(arguments: [
    "elastic: {least: 1000, most: 5000}", "elastic: {least: 1000, most: 1000000000}",
    "elastic: {least: 0, most: 0}",
  ])
  func stagesThatAdaptAreAskedForTheirLeast(stage: String) throws {
    let bench = try ProbeBench()
    let recipe = ProbeBench.recipe.replacing("- sum", with: "- \(stage)")
    func job(_ memory: Int) throws -> Job {
      let probe = try bench.job()
      return try Job(
        recipe: Recipe(
          text: recipe.replacing("CORPUS", with: bench.corpus), source: "r.yaml",
          overrides: ["stream.memory=30"],
          registry: StageRegistry([
            Words.descriptor, Stream.descriptor, Elastic.descriptor, First.descriptor, Better.descriptor,
            Write.descriptor, Score.descriptor,
          ])),
        checkpoint: probe.checkpoint, model: probe.model, output: bench.folder.path + "/out",
        work: probe.work,
        memory: memory, device: Device(threads: 1), arithmetic: arithmetic)
    }
    let least = Planner.processBytes + 30 + (stage.contains("1000") ? 1000 : 0)
    #expect(failure { _ = try Planner.plan(try job(least - 1)) }?.code == .usage)
    for memory in [least, least + 1, least + 3999, least + 4000, least + 9000, least + 1 << 30, 1 << 40] {
      let plan = try Planner.plan(try job(memory))
      #expect(plan.leastMemory == least && plan.peakMemory <= memory && plan.peakMemory >= least)
    }
    #expect(
      try Planner.plan(try job(1 << 40)).peakMemory == Planner.processBytes + 30 + 2
        * (stage.contains("5000") ? 5000 : stage.contains("1000000000") ? 1_000_000_000 : 0))
  }

  @Test func whatIsDoneIsKnownWithoutReadingATensor() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    #expect(try Planner.plan(job).doneUnits == 0)
    try bench.run(job)
    let plan = try Planner.plan(job)
    #expect(plan.doneUnits == plan.units && plan.workLeft == Work())
    // Another parameter: only what precedes it is done.
    let other = try Planner.plan(bench.job(overrides: ["first.share=0.25"], output: "other", work: "work"))
    #expect(other.doneUnits > 0 && other.doneUnits < other.units && other.workLeft.commits > 0)
    // Nor are shards read if digests are not saved.
    try Folder.remove(job.work + "/sources.json")
    #expect(try Planner.plan(job).doneUnits == 0)
    #expect(try Folder.entry(job.work + "/sources.json") == nil)
  }

  @Test func aWorkFolderOfALaterVersionIsTold() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    try bench.run(job)
    let mark: JSON = ["format": 99]
    try Probe.write(mark.sealed().text, to: job.work + "/format.json")
    #expect(failure { _ = try Planner.plan(job) }?.message.contains("a later version of espalier") == true)
  }

  @Test func missingFilesAreToldBeforeAnyWork() throws {
    let bench = try ProbeBench()
    for (override, code, text) in [
      (
        "words.corpus=/no/such.txt", EspalierError.Code.noInput,
        "words.corpus: /no/such.txt: there is no such file."
      ),
      ("score.tasks=\(bench.model)", .badInput, "score.tasks: \(bench.model): this is a folder, not a file."),
    ] {
      let error = failure { _ = try Planner.plan(try bench.job(overrides: [override])) }
      #expect(error?.code == code && error?.description == text)
    }
  }

  @Test func foldersOnOneDiskAreCheckedTogether() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    let plan = try Planner.plan(job)
    func check(_ job: Job, _ free: Int) -> EspalierError? {
      failure { _ = try Planner.plan(job) { _ in Folder.Disk(device: 7, free: free) } }
    }
    #expect(plan.diskBytes > max(plan.workBytes, plan.outputs[0].bytes))
    #expect(check(job, plan.diskBytes) == nil)
    let error = check(job, plan.diskBytes - 1)
    #expect(error?.code == .io && error?.subject == job.work)
    #expect(
      error?.message
        == "the work folder and the pruned model (\(job.outputs[0].path)) together need at least \(ByteSize(bytes: plan.diskBytes)), but the disk has \(ByteSize(bytes: plan.diskBytes - 1)) free."
    )
    // What an earlier run wrote counts as free, and only once if one folder is inside the other.
    try Folder.create(job.work + "/objects/00")
    try File(writing: job.work + "/objects/00/early").resize(to: 100)
    #expect(check(job, plan.diskBytes - 100) == nil)
    #expect(check(job, plan.diskBytes - 101)?.message.hasSuffix("free and 100 B of an earlier run.") == true)
    let inside = try bench.job(output: "work/out")
    #expect(check(inside, plan.diskBytes - 100) == nil && check(inside, plan.diskBytes - 101) != nil)
  }

  @Test func foldersOnTwoDisksAreCheckedEachForItself() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    let plan = try Planner.plan(job)
    func check(work: Int, output: Int) -> EspalierError? {
      failure {
        _ = try Planner.plan(job) { path in
          path == job.work ? Folder.Disk(device: 1, free: work) : Folder.Disk(device: 2, free: output)
        }
      }
    }
    #expect(check(work: plan.workBytes, output: plan.outputs[0].bytes) == nil)
    let work = check(work: plan.workBytes - 1, output: plan.outputs[0].bytes)
    #expect(work?.subject == job.work && work?.message.hasPrefix("the work folder needs at least") == true)
    let output = check(work: plan.workBytes, output: plan.outputs[0].bytes - 1)
    #expect(
      output?.subject == job.outputs[0].path
        && output?.message.hasPrefix("the pruned model needs at least") == true)
  }

  @Test func stagesThatDoNotFitAreTold() throws {
    let bench = try ProbeBench()
    let error = failure {
      _ = try Planner.plan(try bench.job(ProbeBench.recipe.replacing("  - sum\n", with: "")))
    }
    #expect(error?.description.contains("needs `- sum`") == true)
  }

  @Test(arguments: [(8, 128), (1024, 1), (2049, 1), (500, 2), (0, 1024), (1, 1024)])
  func batchesAreWholeSequences(length: Int, sequences: Int) {
    #expect(Batching.sequences(length: length) == sequences)
  }
}

/// A site that takes more memory if more is available.
private struct Elastic: SiteStage {
  static let descriptor = StageDescriptor(name: "elastic", summary: "Test: takes what there is.", revision: 1)
  {
    .site(Elastic(&$0))
  }
  let retention = Retention.auto
  let least: Int
  let most: Int

  init(_ parameters: inout Parameters) {
    least = parameters.integer("least", default: 0, in: 0...1 << 40, "Bytes that it needs.")
    most = parameters.integer("most", default: 0, in: 0...1 << 40, "Bytes that it takes at most.")
  }

  func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    WorkingSet(gram: max(least, min(most, sizes.available)))
  }

  func sink(_ unit: UnitContext) throws -> any SiteSink {
    throw EspalierError.internalFault("it never runs.")
  }
}
