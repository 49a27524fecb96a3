import ArgumentParser
import EspalierCore
import EspalierPipeline
import EspalierStages

struct StagesCommand: StageCommand {
  static let configuration = CommandConfiguration(
    commandName: "stages", abstract: "The stages that a recipe can use, with their parameters.",
    discussion:
      "Without a name: one line for each stage, in the order in which a recipe uses them. With a name: its parameters."
  )

  @Argument(help: "A stage.")
  var name: String?

  @OptionGroup var options: StageOptions

  @Flag(help: "Print JSON.")
  var json = false

  func run(adding stages: [StageDescriptor]) throws {
    let registry = try options.registry(adding: stages)
    if let name, registry[name] == nil {
      throw EspalierError.usage(registry.unknown(name))
    }
    let stages = registry.stages.filter { name == nil || $0.name == name }
    if json {
      return Terminal.out(.array(stages.map(Self.json)))
    }
    let width = (stages.map(\.name.count).max() ?? 0) + 2
    for stage in stages {
      if name == nil {
        Terminal.out(
          stage.name.padded(to: width) + stage.summary + (stage.origin.map { " (plug-in: \($0))" } ?? ""))
      } else {
        Terminal.out("\(stage.name): \(stage.summary)")
        Terminal.out(stage.origin.map { "A plug-in: \($0)\n" } ?? "")
        for parameter in stage.parameters + [Parameters.id] {
          Terminal.out(
            "  \(parameter.name): \(parameter.kind)  (\(parameter.fallback.map { "default: \($0)" } ?? "must be given"))"
          )
          Terminal.out("      \(parameter.text)")
        }
      }
    }
  }

  private static func json(_ stage: StageDescriptor) -> JSON {
    [
      "name": .string(stage.name), "summary": .string(stage.summary), "revision": .integer(stage.revision),
      "plugin": stage.origin.map(JSON.string) ?? .null,
      "parameters": .array(
        (stage.parameters + [Parameters.id]).map {
          [
            "name": .string($0.name), "kind": .string($0.kind),
            "default": $0.fallback.map(JSON.string) ?? .null, "text": .string($0.text),
          ]
        }),
    ]
  }
}
