/// What a job will need, from recipe and outline alone.
public struct Plan: Sendable {
  /// The needs of one stage of the recipe.
  public struct Stage: Sendable {
    public let id: String
    public let name: String
    public let units: Int
    /// The most memory that a unit of it needs, its source's included.
    public let memory: WorkingSet
    /// Bytes that it leaves in the work folder, freed ones included.
    public let artifactBytes: Int
    /// What all its units compute, read and write.
    public let work: Work
    /// Why it has nothing to do, where it has nothing to do.
    public let idleReason: String?
  }

  public let stages: [Stage]
  public let units: Int
  /// The most memory that the job holds at a time, in bytes, with the memory that it may use.
  public let peakMemory: Int
  /// The least memory with which the job works.
  public let leastMemory: Int
  /// The most bytes that the work folder holds at a time, and that it holds together with the pruned checkpoint.
  public let workBytes: Int
  public let diskBytes: Int
  /// Bytes of the pruned checkpoint.
  public let outputBytes: Int
  /// What is pruned of the checkpoint, and what is not.
  public let coverage: Coverage

  /// What all stages compute, read and write.
  public var work: Work { stages.reduce(Work()) { $0 + $1.work } }
}
