import ArgumentParser
import EspalierCore
import EspalierPipeline
import EspalierStages

struct StagesCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "stages", abstract: "The stages that a recipe can use, with their parameters.",
    discussion:
      "Without a name: one line for each stage, in the order in which a recipe uses them. With a name: its parameters."
  )

  @Argument(help: "A stage.")
  var name: String?

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws {
    let registry = StageRegistry.builtIn
    if let name, registry[name] == nil {
      throw EspalierError.usage(
        "there is no stage \"\(name)\"; there are: \(registry.names.joined(separator: ", ")).")
    }
    let types = (name.map { [$0] } ?? registry.names).compactMap { registry[$0] }
    if json {
      return Terminal.out(.array(types.map(Self.json)))
    }
    for type in types {
      if name == nil {
        Terminal.out(type.name + String(repeating: " ", count: max(1, 12 - type.name.count)) + type.summary)
      } else {
        Terminal.out("\(type.name): \(type.summary)\n")
        for parameter in type.parameterDescriptions {
          Terminal.out(
            "  \(parameter.name): \(parameter.kind)  (\(parameter.fallback.map { "default: \($0)" } ?? "must be given"))"
          )
          Terminal.out("      \(parameter.text)")
        }
      }
    }
  }

  private static func json(_ type: any Stage.Type) -> JSON {
    [
      "name": .string(type.name), "summary": .string(type.summary), "revision": .integer(type.revision),
      "parameters": .array(
        type.parameterDescriptions.map {
          [
            "name": .string($0.name), "kind": .string($0.kind),
            "default": $0.fallback.map(JSON.string) ?? .null, "text": .string($0.text),
          ]
        }),
    ]
  }
}
