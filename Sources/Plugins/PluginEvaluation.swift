import EspalierCore
import EspalierIO
import EspalierStageKit

/// A plug-in that measures the pruned model.
struct PluginEvaluation: EvaluationStage {
  private let plugin: Plugin
  private let pool: PluginPool

  init(_ plugin: Plugin, _ keys: inout Parameters) {
    self.plugin = plugin
    pool = PluginPool(plugin, plugin.values(&keys))
  }

  func sourceFiles(of checkpoint: Checkpoint) -> [String: String] { plugin.files }

  func workingSet(_ sizes: UnitSizes) -> WorkingSet { WorkingSet(rows: plugin.memory) }

  func run(_ unit: UnitContext) throws -> EvaluationReport {
    let question: JSON = [
      "unit": .string(unit.unit.id), "model": .string(try Folder.absolute(unit.output().path)),
      "dense": .string(try Folder.absolute(unit.checkpoint.folder)),
    ]
    let reports = try pool.ask([(unit, question)]) { _, answer in
      guard let measures = answer["measures"]?.object, !measures.members.isEmpty,
        measures.members.allSatisfy({ $0.value.double?.isFinite == true })
      else {
        throw EspalierError.badInput("its answer has no `measures`: an object of names with finite numbers.")
      }
      var scores = ModelScores()
      scores.tasks = [
        TaskReport(task: plugin.name, rows: answer["rows"]?.integer ?? 0, shots: 0, metrics: measures)
      ]
      return EvaluationReport(pruned: scores, dense: nil, comparisons: [])
    }
    return reports[0]
  }
}
