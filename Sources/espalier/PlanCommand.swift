import ArgumentParser
import EspalierCore
import EspalierPipeline

struct PlanCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "plan", abstract: "Check a job and tell what it needs; reads no tensor and writes nothing.")

  @OptionGroup var options: JobOptions

  func run() throws {
    let job = try options.job()
    let plan = try Planner.plan(job)
    options.json ? Terminal.out(plan.json) : show(plan, job)
  }

  private func show(_ plan: Plan, _ job: Job) {
    Terminal.table(
      ["stage", "units", "memory of a unit", "artifacts"],
      plan.stages.map {
        [
          $0.id, $0.idleReason == nil ? String($0.units) : "-", "\(ByteSize(bytes: $0.memory.total))",
          "\(ByteSize(bytes: $0.artifactBytes))",
        ]
      })
    Terminal.out("")
    for stage in plan.stages { if let reason = stage.idleReason { Terminal.out("\(stage.id): \(reason)") } }
    Terminal.out("memory at most  \(ByteSize(bytes: plan.peakMemory)) of \(ByteSize(bytes: job.memory))")
    Terminal.out("work folder     \(ByteSize(bytes: plan.workBytes)) in \(job.work)")
    Terminal.out("pruned model    \(ByteSize(bytes: plan.outputBytes)) in \(job.output)")
    Terminal.out("to be read      \(ByteSize(bytes: plan.readBytes))")
    Terminal.out("to be computed  \(Terminal.number(plan.operations / 1e9)) GFLOP")
  }
}

extension Plan {
  var json: JSON {
    [
      "units": .integer(units), "peakMemory": .integer(peakMemory), "workBytes": .integer(workBytes),
      "outputBytes": .integer(outputBytes),
      "readBytes": .integer(readBytes), "operations": .number(operations),
      "stages": .array(
        stages.map { stage in
          [
            "id": .string(stage.id), "stage": .string(stage.name), "units": .integer(stage.units),
            "artifactBytes": .integer(stage.artifactBytes),
            "memory": [
              "total": .integer(stage.memory.total), "weights": .integer(stage.memory.weights),
              "activations": .integer(stage.memory.activations),
              "factor": .integer(stage.memory.factor), "rows": .integer(stage.memory.rows),
            ],
            "idle": stage.idleReason.map(JSON.string) ?? .null,
          ]
        }),
    ]
  }
}
