import EspalierCore
import EspalierIO
import EspalierTestSupport
import Synchronization
import Testing

@testable import EspalierPipeline

/// Jobs with several outputs.
@Suite struct JobOutputTests {
  private let bench: ProbeBench

  init() throws { bench = try ProbeBench() }

  /// The usual recipe with a second output beside the first.
  private func job(_ output: String = "out", work: String = "work", extra: String = "  - extra\n") throws
    -> Job
  {
    let probe = try bench.job(output: output, work: work)
    let registry = StageRegistry(Probe.registry.stages + [Extra.descriptor])
    let recipe = try Recipe(
      text: probe.recipe.text.replacing("  - score", with: extra + "  - score"), source: "r",
      registry: registry)
    return try Job(
      recipe: recipe, checkpoint: probe.checkpoint, model: probe.model,
      output: "\(bench.folder.path)/\(output)", work: probe.work, memory: probe.memory, device: device,
      arithmetic: arithmetic)
  }

  @Test func allOfThemArePlannedAndWritten() throws {
    let job = try job()
    let paths = [bench.folder.path + "/out", bench.folder.path + "/out.extra"]
    #expect(job.outputs.map(\.path) == paths)
    let (plan, single) = (try Planner.plan(job), try Planner.plan(try bench.job()))
    #expect(plan.outputs == job.outputs && plan.diskBytes == single.diskBytes + Extra.bytes)
    #expect(plan.work.writtenBytes == single.work.writtenBytes + Extra.bytes)
    try bench.run(job)
    #expect(try Probe.text(paths[1] + "/key").count == 64 && Folder.entry(paths[0] + "/result") != nil)
    #expect(try Folder.entry(paths[0] + ".partial") == nil && Folder.entry(paths[1] + ".partial") == nil)
    #expect(try RunHistory(work: job.work).outputs == job.outputs)
    // A lost output is written again, and no other.
    #expect(try bench.run(job) == [])
    try Folder.remove(paths[1])
    #expect(try bench.run(job) == ["extra"])
  }

  @Test func allOfThemAreLocked() throws {
    let job = try job()
    let errors = Mutex<[EspalierError?]>([])
    try Probe.$hook.withValue(
      { unit in
        guard unit == "extra" else { return }
        for (index, output) in job.outputs.enumerated() {
          let error = failure { _ = try FolderLock(folder: output.partial, .output(output.path)) }
          #expect(error?.subject == output.path, "\(index)")
          errors.withLock { $0.append(error) }
        }
      }, operation: { _ = try bench.run(job) })
    #expect(errors.withLock { $0.count } == 4)
  }

  /// Each disk must hold the folders on it.
  @Test func everyDiskIsChecked() throws {
    let job = try job()
    let plan = try Planner.plan(job)
    func check(_ devices: [UInt64], _ free: [Int]) -> EspalierError? {
      failure {
        _ = try Planner.plan(job) { path in
          let place = ([job.work] + job.outputs.map(\.path)).firstIndex(of: path) ?? 0
          return Folder.Disk(device: devices[place], free: free[place])
        }
      }
    }
    let (first, second) = (job.outputs[0], job.outputs[1])
    let both = first.bytes + second.bytes
    #expect(check([1, 2, 2], [plan.workBytes, both, both]) == nil)
    #expect(check([1, 2, 2], [plan.workBytes - 1, both, both])?.subject == job.work)
    let together = check([1, 2, 2], [plan.workBytes, both - 1, both - 1])
    #expect(together?.subject == first.path)
    #expect(
      together?.message.hasPrefix("the pruned model and the pruned model together need at least") == true)
    #expect(check([1, 2, 3], [plan.workBytes, first.bytes, second.bytes]) == nil)
    #expect(check([1, 2, 3], [plan.workBytes, first.bytes, second.bytes - 1])?.subject == second.path)
    // The disk of the work folder only has to hold the second one.
    let beside = max(plan.workBytes, plan.diskBytes - first.bytes)
    #expect(check([1, 2, 1], [beside, first.bytes, beside]) == nil)
    #expect(check([1, 2, 1], [beside - 1, first.bytes, beside - 1])?.subject == job.work)
  }

  @Test(arguments: ["  - extra: {ending: /in}\n", "  - extra: {ending: \"\"}\n"])
  func oneCannotLieInTheOther(extra: String) throws {
    let job = try job(extra: extra)
    let errors = [failure { _ = try Planner.plan(job) }, failure { _ = try bench.run(job) }]
    for error in errors {
      #expect(error?.code == .usage && error?.subject == job.outputs[1].path)
      #expect(error?.message.contains("two stages of the recipe write this folder") == true)
    }
  }

  @Test func placesThatCannotBeWrittenAreTold() throws {
    for (output, work, text) in [
      ("model/out", "work", "lies in the folder of the model"), ("out", "model/w", "lies in the folder of"),
      ("out", "out/work", "the work folder lies in the output folder"),
      ("out", "out.extra/work", "the work folder lies in the output folder"),
      ("corpus", "work", "this is a file; --output"), ("out", "corpus", "this is a file; --work"),
    ] {
      let error = failure { _ = try Planner.plan(try job(output, work: work)) }
      #expect(error?.code == .usage && error?.message.contains(text) == true, "\(output) \(work)")
    }
  }
}

/// A second output, beside the first.
private struct Extra: OutputStage {
  static let bytes = 500
  static let descriptor = StageDescriptor(name: "extra", summary: "Test: one more output.", revision: 1) {
    .output(Extra(&$0))
  }
  let ending: String

  init(_ parameters: inout Parameters) {
    ending = parameters.texts("ending", default: [".extra"], "After the path.").first ?? ""
  }

  func output(of checkpoint: Checkpoint, path: String) throws -> JobOutput {
    JobOutput(.checkpoint, path: path + ending, bytes: Self.bytes)
  }

  func isPresent(_ output: JobOutput, key: Digest) throws -> Bool {
    try Folder.entry(output.path + "/key") != nil && Probe.text(output.path + "/key") == key.hex
  }

  func run(_ unit: UnitContext) throws -> OutputReport {
    try Probe.make(unit.unit.id, unit.folder + "/list", [])
    try Folder.create(unit.output().path)
    try Probe.write("", to: unit.output().path + "/result")
    try Probe.write(unit.key.hex, to: unit.output().path + "/key")
    return OutputReport(matrices: 0, files: 1, digest: unit.key)
  }
}
