/// Bytes of memory that a unit holds at a time, by their use.
///
/// They are counted as the system counts what a process has in memory: buffers, and the pages of files that are mapped for as long as
/// they are used. Plan, report and the limit of a memory cgroup mean this number, with what the program itself holds
/// (``Planner/processBytes``).
public struct WorkingSet: Sendable {
  /// Pages of the weights that are read.
  public var weightPages: Int
  /// Pages of a Gram matrix that is read, or grows in its file.
  public var gramPages: Int
  /// Buffers of a forward pass.
  public var activations: Int
  /// Buffers of a Gram matrix that is made.
  public var gram: Int
  /// Other buffers: blocks of rows, masks, texts.
  public var rows: Int

  public init(weightPages: Int = 0, gramPages: Int = 0, activations: Int = 0, gram: Int = 0, rows: Int = 0) {
    self.weightPages = weightPages
    self.gramPages = gramPages
    self.activations = activations
    self.gram = gram
    self.rows = rows
  }

  /// Pages of mapped files.
  public var pages: Int { weightPages + gramPages }
  /// Memory of the unit's own.
  public var buffers: Int { activations + gram + rows }
  public var total: Int { pages + buffers }

  public static func + (left: WorkingSet, right: WorkingSet) -> WorkingSet {
    WorkingSet(
      weightPages: left.weightPages + right.weightPages, gramPages: left.gramPages + right.gramPages,
      activations: left.activations + right.activations, gram: left.gram + right.gram,
      rows: left.rows + right.rows)
  }
}
