import ArgumentParser
import EspalierCore
import EspalierPipeline
import EspalierStages

struct RunCommand: StageCommand {
  static let configuration = CommandConfiguration(
    commandName: "run", abstract: "Prune a model; after a crash or Ctrl-C, the same command continues.",
    discussion: """
      Finished work is kept in the work folder and found by its content: a second recipe with the same calibration reuses it, and \
      a run that was stopped continues with the next unit. The pruned model appears under its name when it is complete.

      A recipe with `extends: FILE` has the stages of that recipe, found from its own folder: a stage with the id of one of them sets \
      its parameters, another one is added behind those of its kind. `${NAME}` in a value stands for what --define NAME=VALUE says.
      """)

  /// Operations of a job that takes long enough to be worth two seconds of measuring the machine, about ten seconds of work.
  private static let longWork = 1e12

  @OptionGroup var options: JobOptions
  @OptionGroup var distributed: DistributedOptions
  @OptionGroup var detail: DetailOptions

  func run(adding stages: [StageDescriptor]) throws {
    let ranks = try distributed.ranks()
    do {
      try run(ranks, adding: stages)
      ranks.close()
    } catch {
      let error = ranks.fail(error)
      guard ranks.count > 1, let error = error as? EspalierError else { throw error }
      if ranks.speaks { show(error) }
      ranks.abort(error.code.exitCode)
    }
  }

  private func run(_ ranks: any Ranks, adding stages: [StageDescriptor]) throws {
    let job = try options.job(adding: stages, ranks: ranks, scratch: distributed.scratch)
    Interruption.watch()
    // The others do what the first one says, and what there is to see is seen there.
    guard ranks.rank == 0 else { return try Runner(job) { _ in }.run() }
    let plan = try options.plan(job)
    for stage in plan.stages { if let reason = stage.idleReason { Terminal.error("\(stage.id): \(reason)") } }
    for line in CoverageText.warnings(plan.coverage) { Terminal.error(line) }
    let rates =
      plan.work.allOperations > Self.longWork
      ? try MachineRates.measured(onTheDiskOf: job.work, by: job.device) : nil
    let display = ProgressDisplay(detail.detail)
    do {
      try Runner(job, forecast: Forecast(plan, rates), progress: display.show).run()
    } catch {
      display.end()
      throw error
    }
    display.end()
    let report = try RunReport(work: job.work)
    if options.json {
      Terminal.out(report.json)
    } else {
      ReportText(report: report, detail: detail.detail).show()
    }
  }
}
