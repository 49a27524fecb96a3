import ArgumentParser
import EspalierCore
import EspalierIO
import EspalierPipeline

struct ExplainCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "explain",
    abstract: "What a unit was made from, and what has changed since the last time.",
    discussion: """
      A unit is made again when anything that decides its bytes has changed: parameters of its stage, the stage's own revision, the \
      content of its inputs, of the checkpoint's tensors, of files. `espalier run` names the units as it goes; \
      `swap/model.layers.0.mlp.down_proj` is one. The name of a module, or its last parts, lists the units of that module.
      """)

  @Argument(help: "The work folder of a run.", completion: .file(), transform: givenPath)
  var work: String

  @Argument(help: "A unit of the last run, or a module.")
  var unit: String

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws {
    let units = try Explanation.units(work: work, named: unit)
    if units.count == 1 {
      json ? Terminal.out(units[0].json) : show(units[0])
    } else if json {
      Terminal.out(["units": .array(units.map(\.json))])
    } else {
      list(units)
    }
  }

  /// The units of a module.
  private func list(_ units: [Explanation]) {
    Terminal.table(
      ["unit", "key", "last run", "changed"],
      units.map { unit in
        [
          unit.unit, unit.manifest.key.short, unit.wasMade ? "made" : "found",
          unit.previous == nil ? "" : unit.differences.map(\.component).joined(separator: ", "),
        ]
      })
    Terminal.out("\nespalier explain WORK UNIT says more of one")
  }

  private func show(_ explanation: Explanation) {
    let manifest = explanation.manifest
    let bytes = ByteSize(bytes: manifest.objects.reduce(0) { $0 + $1.size })
    let state =
      explanation.isPresent
      ? "\(bytes) in the work folder" : "\(bytes), deleted or lost: made again when needed"
    Terminal.out("\(explanation.unit): \(explanation.wasMade ? "made" : "found") by the last run; \(state)")
    Terminal.out("key      \(manifest.key.hex)\ncontent  \(manifest.digest.hex)\n")
    Terminal.table(["component of the key", "value"], rows("", manifest.components))
    Terminal.out("")
    guard let previous = explanation.previous else {
      return Terminal.out("nothing else was made by this stage at this place")
    }
    Terminal.out("it differs from \(previous.key.short), made earlier by this stage at this place, because")
    for difference in explanation.differences { Terminal.out("  \(difference.sentence)") }
    for (unit, differences) in explanation.causes {
      for difference in differences { Terminal.out("  the cause, in \(unit): \(difference.sentence)") }
    }
  }

  private func rows(_ name: String, _ value: JSON) -> [[String]] {
    guard let members = value.object?.members, !members.isEmpty else {
      return [[name, value.string ?? value.text]]
    }
    return members.flatMap { rows(name.isEmpty ? $0.key : "\(name).\($0.key)", $0.value) }
  }
}

extension Explanation.Difference {
  /// As in `parameters.samples changed from 128 to 64`.
  var sentence: String {
    let name = component.split(separator: ".", maxSplits: 1).last.map(String.init) ?? component
    switch component.prefix(while: { $0 != "." }) {
    case "inputs": return "the input \(name) \(change("has other bytes"))\(input.map { " (\($0))" } ?? "")"
    case "files": return "the file \(name) \(change("has another content"))"
    case "tensors": return "tensors of the checkpoint have other bytes"
    case "configuration": return "config.json has another content"
    case "layout": return "the shards of the checkpoint have another layout"
    case "revision": return "the stage's revision changed from \(before.text) to \(after.text)"
    default: return "\(component) \(change("changed from \(before.text) to \(after.text)"))"
    }
  }

  private func change(_ text: String) -> String {
    if before.isNull { return "is new" }
    return after.isNull ? "is gone" : text
  }
}

extension Explanation {
  var json: JSON {
    [
      "unit": .string(unit), "key": .string(manifest.key.hex), "content": .string(manifest.digest.hex),
      "made": .bool(wasMade), "present": .bool(isPresent), "components": manifest.components,
      "previous": previous.map { .string($0.key.hex) } ?? .null,
      "differences": .array(differences.map(\.json)),
      "causes": .array(
        causes.map { ["unit": .string($0.unit), "differences": .array($0.differences.map(\.json))] }),
    ]
  }
}

extension Explanation.Difference {
  var json: JSON {
    [
      "component": .string(component), "before": before, "after": after,
      "input": input.map(JSON.string) ?? .null, "text": .string(sentence),
    ]
  }
}
