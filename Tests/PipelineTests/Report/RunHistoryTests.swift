import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierPipeline

@Suite struct RunHistoryTests {
  @Test func aRunIsTold() throws {
    let bench = try ProbeBench()
    let job = try bench.job(overrides: ["better.rounds=5"], memory: 1 << 29, threads: 2)
    let units = try bench.run(job)
    let history = try RunHistory(work: job.work)
    #expect(history.state == .finished && history.reason == nil)
    #expect(history.unitCount == 21 && history.peakMemory > 1 << 20)
    #expect(history.entries.map(\.unit) == units)
    #expect(history.entries.allSatisfy { $0.seconds.map { $0 >= 0 } == true })
    #expect(history.start["memory"]?.integer == 1 << 29 && history.start["threads"]?.integer == 2)
    #expect(history.start["stages"]?.array?.compactMap { $0["id"]?.string } == job.recipe.entries.map(\.id))
    #expect(history.recipe == job.recipe.effectiveText && history.recipe?.contains("rounds: 5") == true)
    #expect(history.stages.map(\.name) == job.recipe.entries.map(\.descriptor.name))
    // The second run makes nothing, and reports the times of the first one.
    _ = try bench.run(job)
    let second = try RunHistory(work: job.work)
    #expect(second.entries.map(\.unit) != [] && second.entries.map(\.seconds).allSatisfy { $0 != nil })
    #expect(Set(second.entries.map(\.unit)) == Set(units))
  }

  @Test func aReportHasTheLossesOfEveryMatrix() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    _ = try bench.run(job)
    let report = try RunReport(work: job.work)
    #expect(report.matrices.count == 6)
    for matrix in report.matrices {
      let last = try #require(matrix.steps.last).report
      #expect(last.pattern == .rows(sparsity: 0.5) && last.rows > 0 && last.columns == 8)
      #expect(last.kept == last.rows * 4)
      #expect(matrix.steps.map(\.stage) == ["first", "better"])
      #expect(
        matrix.steps.map(\.report.lossBefore) == [8, 4] && matrix.steps.map(\.report.lossAfter) == [4, 3])
    }
    #expect(report.totals.map(\.stage) == ["words", "stream", "sum", "first", "better", "write", "score"])
    let first = report.totals[3]
    #expect(first.matrices == 6 && first.lossBefore == 48 && first.lossAfter == 24 && first.swaps == 12)
    #expect(first.meanReduction == 0.5 && first.totalReduction == 0.5)
    #expect(report.totals[4].totalReduction == 0.25)
    #expect(
      report.totals[0].matrices == 0 && report.totals[0].lossBefore == nil && report.totals[0].swaps == nil)
    #expect(report.json["perplexities"]?["pruned"]?.double == 7.5)
    #expect(report.json["state"]?.string == "finished")
    #expect(report.json["matrices"]?.array?.count == 6)
    // The text of the report is JSON.
    #expect(try JSON(parsing: report.json.text) == report.json)
  }

  @Test func aStoppedRunSaysWhy() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    let error = failure {
      try Probe.$hook.withValue({ if $0 == "stream/0" { throw EspalierError(.io, "no room.") } }) {
        _ = try bench.run(job)
      }
    }
    #expect(error?.code == .io)
    let history = try RunHistory(work: job.work)
    #expect(history.state == .stopped && history.reason == "stream/0: no room.")
    #expect(
      history.entries.count == 10 && history.entries.last?.unit == "better/model.layers.0.mlp.down_proj")
    #expect(try RunReport(work: job.work).matrices.count == 3)
  }

  /// A crash may cut the last line anywhere; the next run starts a new line.
  @Test func cutLinesArePassedOver() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    _ = try bench.run(job)
    let path = job.work + "/events.jsonl"
    let whole = try Folder.read(path)
    let lastLine = whole.dropLast().lastIndex(of: 0x0A).map { $0 + 1 } ?? 0
    for size in [lastLine + 1, lastLine + 20, whole.count - 1] {
      try File(writing: path).resize(to: size)
      let cut = try RunHistory(work: job.work)
      #expect(cut.entries.count == 21)
      #expect(cut.state == (size == whole.count - 1 ? .finished : .killed))
      _ = try bench.run(bench.job(threads: 7))
      let next = try RunHistory(work: job.work)
      #expect(next.state == .finished && next.start["threads"]?.integer == 7)
      try Folder.writeAtomically(whole, to: path)
    }
  }

  @Test func artifactsThatAreGoneAreLeftOut() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    _ = try bench.run(job)
    let history = try RunHistory(work: job.work)
    let key = try #require(history.entries.first { $0.unit == "first/model.layers.1.mlp.down_proj" }).manifest
      .key
    try Folder.remove("\(job.work)/manifests/\(key.hex.prefix(2))/\(key.hex).json")
    #expect(try RunHistory(work: job.work).entries.count == 20)
  }

  @Test func whatIsNoWorkFolderIsTold() throws {
    let folder = try TemporaryFolder()
    #expect(
      failure { _ = try RunHistory(work: folder.path) }?.description.contains("this is not a work folder")
        == true)
    try Probe.write("\n\n{\"event\":\"done\"}\n", to: folder.path + "/events.jsonl")
    #expect(
      failure { _ = try RunHistory(work: folder.path) }?.description.contains("has no start of a run") == true
    )
    try Probe.write("", to: folder.path + "/events.jsonl")
    #expect(failure { _ = try RunHistory(work: folder.path) }?.code == .badInput)
    try Probe.write("{\"event\":\"start\"}\n", to: folder.path + "/events.jsonl")
    #expect(
      failure { _ = try RunHistory(work: folder.path) }?.description.contains("this is not a work folder")
        == true)
  }
}
