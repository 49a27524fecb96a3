import ArgumentParser
import EspalierCore
import EspalierPipeline

struct StatusCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status", abstract: "Progress of the last run in a work folder.")

  @Argument(help: "The work folder of a run.", completion: .file(), transform: givenPath)
  var work: String

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws {
    let history = try RunHistory(work: work)
    if json {
      return Terminal.out([
        "state": .string(history.state.rawValue),
        "process": history.process.map(JSON.string) ?? .null,
        "secondsLeft": .optional(history.secondsLeft), "reason": history.reason.map(JSON.string) ?? .null,
        "done": .integer(history.entries.count),
        "units": .integer(history.unitCount), "last": history.entries.last.map { .string($0.unit) } ?? .null,
        "model": history.model.map(JSON.string) ?? .null,
        "outputs": .array(history.outputs.map(\.json)),
        "started": history.startTime.map(JSON.string) ?? .null,
        "peakMemory": .integer(history.peakMemory),
      ])
    }
    let process = history.process.map { " (\($0))" } ?? ""
    let left = history.secondsLeft.map { ", about \(Figures.duration($0)) left" } ?? ""
    Terminal.out(
      "\(history.state)\(process): \(history.entries.count) of \(history.unitCount) units done\(left), started \(history.startTime ?? "?")"
    )
    if history.state == .killed {
      Terminal.out("no process holds the work folder: the run was killed; the same command continues")
    }
    if let reason = history.reason { Terminal.out("reason: \(reason)") }
    if let last = history.entries.last { Terminal.out("last unit: \(last.unit)") }
    Terminal.out("model: \(history.model ?? "?")")
    for output in history.outputs { Terminal.out("\(output.kind.name): \(output.path)") }
  }
}
