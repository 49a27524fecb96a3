import EspalierCore
import EspalierPipeline
import EspalierStageKit
import Synchronization

/// The processes of a plug-in, which stay alive from unit to unit.
final class PluginPool: Sendable {
  private let plugin: Plugin
  private let values: JSON
  private let idle = Mutex<[PluginProcess]>([])

  /// - Parameter values: those of the parameters.
  init(_ plugin: Plugin, _ values: JSON) {
    self.plugin = plugin
    self.values = values
  }

  /// Asks about some units side by side.
  ///
  /// - Parameters:
  ///   - questions: one for each unit, at most as many as there are copies.
  ///   - take: takes the answer to a question, in their order, while other processes still work.
  /// - Throws: an error that names the plug-in and the unit; all processes are ended then.
  func ask<Result>(
    _ questions: [(unit: UnitContext, message: JSON)], _ take: (Int, JSON) throws -> Result
  ) throws -> [Result] {
    var busy: [PluginProcess] = []
    do {
      for question in questions {
        let process = idle.withLock { $0.popLast() } ?? start()
        busy.append(process)
        process.send(question.message)
      }
      var results: [Result] = []
      for (index, question) in questions.enumerated() {
        results.append(
          try about("\(question.unit.unit.id): the plug-in \(plugin.path)") {
            try take(index, answer(busy[index], question.unit))
          })
      }
      idle.withLock { $0 += busy }
      return results
    } catch {
      for process in busy + idle.withLock({ $0 }) { process.kill() }
      idle.withLock { $0 = [] }
      throw error
    }
  }

  private func start() -> PluginProcess {
    let process = PluginProcess(plugin)
    process.send(["espalier": 1, "stage": .string(plugin.name), "parameters": values])
    return process
  }

  private func answer(_ process: PluginProcess, _ unit: UnitContext) throws -> JSON {
    var silence = 0.0
    while true {
      // Often enough for Ctrl-C.
      let patience = 0.2
      guard let message = try process.receive(within: patience) else {
        try unit.progress(nil)
        silence += patience
        guard silence < plugin.timeout else {
          throw EspalierError.badInput(
            "it has said nothing for \(plugin.timeout) s; raise `timeout` in its description if it needs longer.\(process.errors)"
          )
        }
        continue
      }
      silence = 0
      if let text = message["error"]?.string {
        throw EspalierError.badInput("it says: \(text)\(process.errors)")
      }
      if let text = message["note"]?.string { unit.note("\(unit.unit.id): \(text.prefix(1000))") }
      if let share = message["progress"]?.double { try unit.progress(share) }
      guard message["done"]?.bool == true else { continue }
      guard message["unit"]?.string == unit.unit.id else {
        throw EspalierError.badInput(
          "it answered for the unit \(message["unit"]?.string ?? "null") when \(unit.unit.id) was asked.")
      }
      return message
    }
  }
}

extension UnitContext {
  /// Shows how far a plug-in is, if it has told, and lets Ctrl-C through.
  fileprivate func progress(_ share: Double?) throws {
    guard let share, (0...1).contains(share) else { return try requireRunning() }
    try progress(Int(share * 1000), of: 1000)
  }
}
