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

  @Flag(help: "Print JSON.")
  var json = false

  func run(adding stages: [StageDescriptor]) throws {
    let registry = try StageRegistry.builtIn.adding(stages)
    if let name, registry[name] == nil {
      throw EspalierError.usage(registry.unknown(name))
    }
    let stages = registry.stages.filter { name == nil || $0.name == name }
    if json {
      return Terminal.out(.array(stages.map(Self.json)))
    }
    for stage in stages {
      if name == nil {
        Terminal.out(stage.name.padded(to: 12) + stage.summary)
      } else {
        Terminal.out("\(stage.name): \(stage.summary)\n")
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
