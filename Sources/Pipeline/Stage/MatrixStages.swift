import EspalierCore

/// Decides how sparse every matrix becomes, from a measurement of each in the dense model.
///
/// If blocks see the outputs of pruned blocks, the dense model streams once more before the first mask is made.
public protocol AllocationStage: Stage {
  /// Whether it reads Gram matrices, and not only their diagonals.
  var needsGram: Bool { get }
  /// The pattern of the masks that it decides about, as far as it is known before any work.
  var pattern: PlannedPattern { get }
  /// Whether it decides about this matrix.
  func applies(to matrix: ModelOutline.Matrix) -> Bool
  /// Measures one matrix with its factor.
  func measure(_ unit: UnitContext) throws
  /// Decides, from all measurements.
  func allocate(_ unit: UnitContext) throws -> AllocationReport
}

extension AllocationStage {
  public var needsGram: Bool { false }
  public var pattern: PlannedPattern { .allocatedRows }
}

/// Makes or changes the ``ArtifactKind/mask`` of one matrix.
public protocol MatrixStage: Stage {
  /// What it reads: factor, mask, allocation, or nothing. A stage that reads a mask changes it; another makes the first one.
  var reads: Set<ArtifactKind> { get }
  /// Whether it reads Gram matrices, and not only their diagonals.
  var needsGram: Bool { get }
  /// The share of the calibration sequences that it wants left out of the factor, to test on; 0 for none.
  var holdOut: Double { get }
  /// Whether it works towards targets other than the outputs of the dense weights; see ``Target``.
  var followsTarget: Bool { get }
  /// Whether it fits weights, and so writes them beside the mask.
  var writesWeights: Bool { get }
  /// Whether it works on this matrix.
  func applies(to matrix: ModelOutline.Matrix) -> Bool
  /// The pattern of its mask, before any work.
  ///
  /// - Parameter previous: the pattern of the mask or the allocation that it reads; nil if it reads neither.
  /// - Throws: a usage error if it cannot work on masks of that pattern.
  func pattern(after previous: PlannedPattern?) throws -> PlannedPattern?
  /// What each of several ranks that share the rows of the unit's matrix has to do, however few rows it has; a part of ``Stage/work(_:)``.
  /// nil if rows cannot be shared, because they depend on each other. A stage that shares them works on those of
  /// ``UnitContext/rows`` and gives what it finds to the owner.
  func repeatedWork(_ sizes: UnitSizes) -> Work?
  /// The number of matrices that it works on side by side; more than 1 only if ``run(_:)-([UnitContext])`` does that.
  var unitsAtATime: Int { get }
  func run(_ unit: UnitContext) throws -> MatrixReport
  /// Works on at most ``unitsAtATime`` matrices, none of which depends on another.
  func run(_ units: [UnitContext]) throws -> [MatrixReport]
}

extension MatrixStage {
  public var unitsAtATime: Int { 1 }
  public func run(_ units: [UnitContext]) throws -> [MatrixReport] {
    try units.map { unit in try about(unit.unit.id) { try run(unit) } }
  }

  public func repeatedWork(_ sizes: UnitSizes) -> Work? { nil }
  public var needsGram: Bool { false }
  public var holdOut: Double { 0 }
  public var followsTarget: Bool { true }
  public var writesWeights: Bool { false }
  public func pattern(after previous: PlannedPattern?) throws -> PlannedPattern? { previous }

  /// The mask and, if weights are fitted, those in the checkpoint's type.
  public func artifactBytes(_ sizes: UnitSizes) -> Int {
    guard let matrix = sizes.matrix else { return 0 }
    return matrix.rows * Mask.rowBytes(matrix.columns) + (writesWeights ? sizes.tensorBytes : 0)
  }

  /// Whether it makes a matrix's first mask.
  var makesMasks: Bool { !reads.contains(.mask) }
}
