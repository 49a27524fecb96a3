import ArgumentParser
import EspalierCore
import EspalierPipeline

struct RunCommand: StageCommand {
  static let configuration = CommandConfiguration(
    commandName: "run", abstract: "Prune a model; after a crash or Ctrl-C, the same command continues.",
    discussion: """
      Finished work is kept in the work folder and found by its content: a second recipe with the same calibration reuses it, and \
      a run that was stopped continues with the next unit. The pruned model appears under its name when it is complete.

      A recipe with `extends: FILE` has the stages of that recipe, found from its own folder: a stage with the id of one of them sets \
      its parameters, another one is added behind those of its kind. `${NAME}` in a value stands for what --define NAME=VALUE says.
      """)

  @OptionGroup var options: JobOptions

  func run(adding stages: [StageDescriptor]) throws {
    let job = try options.job(adding: stages)
    let plan = try Planner.plan(job)
    try AddressSpace.check(memory: plan.peakMemory, threads: job.device.threads)
    for stage in plan.stages { if let reason = stage.idleReason { Terminal.error("\(stage.id): \(reason)") } }
    if plan.outputs.isEmpty { Terminal.error(NoOutput.warning(job.work)) }
    for line in CoverageText.warnings(plan.coverage) { Terminal.error(line) }
    Interruption.watch()
    let display = ProgressDisplay()
    do {
      try Runner(job, progress: display.show).run()
    } catch {
      display.end()
      throw error
    }
    display.end()
    let report = try RunReport(work: job.work)
    if options.json {
      Terminal.out(report.json)
    } else {
      ReportTable.show(report)
    }
  }
}
