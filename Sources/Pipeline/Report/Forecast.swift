import EspalierCore

/// What a run was planned to take, for comparison with what it took.
public struct Forecast: ReportPart {
  /// One stage of the recipe.
  public struct Stage: ReportPart, ReportValue {
    /// The stage's id in the recipe.
    public fileprivate(set) var id = ""
    public fileprivate(set) var units = 0
    /// Seconds of a run from nothing; nil if the machine was not measured.
    public fileprivate(set) var seconds: Double?

    public init() {}

    public mutating func visit(_ members: inout ReportMembers) {
      members.value("id", &id)
      members.value("units", &units)
      members.value("seconds", &seconds)
    }
  }

  /// The most memory that the process holds at a time, in bytes.
  public private(set) var peakMemory = 0
  public private(set) var stages: [Stage] = []

  public init() {}

  /// - Parameter rates: of this machine; nil if they were not measured.
  public init(_ plan: Plan, _ rates: MachineRates?) {
    peakMemory = plan.peakMemory
    stages = plan.stages.map { planned in
      var stage = Stage()
      (stage.id, stage.units, stage.seconds) = (planned.id, planned.units, rates?.seconds(planned.work))
      return stage
    }
  }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("peakMemory", &peakMemory)
    members.value("stages", &stages)
  }
}
