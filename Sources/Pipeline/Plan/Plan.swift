/// What a job will need, computed from recipe and outline.
public struct Plan: Sendable {
  /// The needs of one stage of the recipe.
  public struct Stage: Sendable {
    public let id: String
    public let name: String
    public let units: Int
    /// The most memory that one of its units needs, with the source if the unit streams.
    public let memory: WorkingSet
    /// Bytes that it writes to the work folder, including those that are deleted during the run.
    public let artifactBytes: Int
    /// What all its units compute, read and write.
    public let work: Work
    /// Why it has nothing to do; nil if it has something to do.
    public let idleReason: String?
  }

  public let stages: [Stage]
  public let units: Int
  /// The most memory that the job holds at a time, in bytes, if it may use as much as `--memory` says.
  public let peakMemory: Int
  /// The least memory with which the job works.
  public let leastMemory: Int
  /// The most bytes that the work folder holds at a time.
  public let workBytes: Int
  /// The most bytes of the work folder and the outputs on its disk at a time.
  public let diskBytes: Int
  public let outputs: [JobOutput]
  /// The calibration data; nil if the recipe reads none.
  public let corpus: CorpusReport?
  /// Units that earlier runs have done, and the work that is left.
  public let doneUnits: Int
  public let workLeft: Work
  /// What is pruned of the checkpoint, and what is not.
  public let coverage: Coverage

  /// What all stages compute, read and write.
  public var work: Work { stages.reduce(Work()) { $0 + $1.work } }
}
