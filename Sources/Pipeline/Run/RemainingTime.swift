import EspalierCore

/// How long a run still takes: what the plan expects of each stage, corrected by the time that its units really took.
public struct RemainingTime: Sendable {
  /// One stage of the recipe.
  struct Stage: Sendable {
    let units: Int
    /// What the plan expects of all its units, in seconds on a typical machine.
    let expected: Double
    /// Units that are done, and those of them that this run made, with the seconds that these took.
    var done = 0
    var made = 0
    var measured = 0.0

    /// What is expected of one unit.
    var unit: Double { units > 0 ? expected / Double(units) : 0 }
  }

  private var stages: [String: Stage]

  /// - Parameter stages: by id.
  init(_ stages: [String: Stage]) { self.stages = stages }

  /// What a plan expects.
  init(_ recipe: Recipe, _ graph: UnitGraph, _ needs: UnitNeeds) throws {
    let work = try Rehearsal(graph, needs, onWorkDisk: []).work
    let units = Dictionary(grouping: graph.units, by: \.entry).mapValues(\.count)
    self.init(
      Dictionary(
        uniqueKeysWithValues: recipe.entries.enumerated().map { index, entry in
          (
            entry.id,
            Stage(units: units[index, default: 0], expected: MachineRates.typical.seconds(work[index]))
          )
        }))
  }

  /// Reads what ``json`` gave, from the first event of a run.
  init(start: JSON) {
    let stages = (start["expected"]?.array ?? []).compactMap { stage -> (String, Stage)? in
      guard let id = stage["id"]?.string, let units = stage["units"]?.integer, units >= 0,
        let expected = stage["seconds"]?.double, expected >= 0
      else { return nil }
      return (id, Stage(units: units, expected: expected))
    }
    self.init(Dictionary(stages, uniquingKeysWith: { first, _ in first }))
  }

  /// The units of each stage and the seconds that are expected of them.
  var json: JSON {
    .array(
      stages.sorted { $0.key < $1.key }.map { id, stage in
        ["id": .string(id), "units": .integer(stage.units), "seconds": .number(stage.expected)]
      })
  }

  /// Counts a unit that is done.
  ///
  /// - Parameters:
  ///   - stage: the id of its stage.
  ///   - seconds: how long it took; nil if it was found.
  mutating func add(_ stage: String, seconds: Double?) {
    stages[stage]?.done += 1
    guard let seconds else { return }
    stages[stage]?.made += 1
    stages[stage]?.measured += seconds
  }

  /// The seconds that a unit of a stage will take; nil before any unit was made.
  func seconds(ofUnit stage: String) -> Double? {
    guard let stage = stages[stage], let pace else { return nil }
    return Self.seconds(stage, pace)
  }

  /// The seconds that are left; nil before any unit was made.
  public var secondsLeft: Double? {
    guard let pace else { return nil }
    return stages.values.reduce(0) { $0 + Double(max(0, $1.units - $1.done)) * Self.seconds($1, pace) }
  }

  /// The mean time of the stage's units, or what is expected of them at the pace of the others.
  private static func seconds(_ stage: Stage, _ pace: Double) -> Double {
    stage.made > 0 ? stage.measured / Double(stage.made) : stage.unit * pace
  }

  /// Measured seconds for an expected one.
  private var pace: Double? {
    let measured = stages.values.reduce(0) { $0 + $1.measured }
    let expected = stages.values.reduce(0) { $0 + Double($1.made) * $1.unit }
    return measured > 0 && expected > 0 ? measured / expected : nil
  }
}
