import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// Prunes by SparseGPT (arXiv 2301.00774): column by column; the weights to the right make up for each pruned weight.
public struct SparseGPT: MatrixStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "sparseGPT",
    summary:
      "Makes masks and fits weights by SparseGPT: column by column; the weights to the right make up for each pruned weight.",
    revision: 1
  ) { .matrix(SparseGPT(&$0)) }

  enum Budget: String, CaseIterable {
    case row
    case matrix
  }

  private let choice: PatternChoice
  private let budget: Budget
  private let options: SparseGPTOptions

  init(_ parameters: inout Parameters) {
    choice = PatternChoice(&parameters)
    budget = parameters.choice(
      "budget", default: .row,
      "Whether every row prunes its share of each block of columns, or all rows together, as in the published code."
    )
    var options = SparseGPTOptions()
    options.damping = parameters.number(
      "damping", default: options.damping, in: 0...1,
      "Added to the Gram matrix's diagonal, as a share of its mean; raised tenfold while that is not enough, as the report then says."
    )
    options.blockColumns = parameters.integer(
      "blockColumns", default: options.blockColumns, in: 1...65_536,
      "Columns whose masks are chosen together.")
    self.options = options
  }

  public var reads: Set<ArtifactKind> { choice.reads.union([.factor]) }
  public var needsGram: Bool { true }
  public var writesWeights: Bool { true }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { choice.applies(to: matrix) }

  public func pattern(after previous: PlannedPattern?) -> PlannedPattern? {
    // Groups keep their own budget.
    let pattern = choice.planned(after: previous)
    return budget == .matrix ? pattern.acrossRows ?? pattern : pattern
  }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws { try choice.check(model) }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    return WorkingSet(
      weightPages: sizes.tensorBytes, gramPages: sizes.factorBytes,
      rows: 2 * matrix.rows * Mask.rowBytes(matrix.columns) + sizes.shiftByteCount()
        + options.workingSet(
          rows: matrix.rows, columns: matrix.columns, pattern: sizes.patternOfAnySparsity,
          threads: sizes.threads, writing: sizes.writingByteCount))
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    // After the factor of the inverse, the updates of the columns to the right of each block, and the loss. Inside a block, columns are
    // pruned one by one.
    return Work(
      operations: Self.factorOperations(matrix) + 1.5 * matrix.gramOperations,
      memoryBytes: matrix.weights * (6 * Double(options.blockColumns) + 64))
  }

  public func repeatedWork(_ sizes: UnitSizes) -> Work? {
    guard !sizes.isAcrossRows, let matrix = sizes.matrix else { return nil }
    return Work(operations: Self.factorOperations(matrix))
  }

  /// Operations for the factor of the inverse.
  private static func factorOperations(_ matrix: ModelOutline.Matrix) -> Double {
    let columns = Double(matrix.columns)
    return columns * columns * columns * 2 / 3
  }

  public func run(_ unit: UnitContext) throws -> MatrixReport {
    let weight = try unit.weight()
    let gram = try unit.factor().requireGram()
    let shift = try unit.targetShift()
    var pattern = try choice.pattern(unit)
    if budget == .matrix { pattern = pattern.acrossRows ?? pattern }
    var (outcome, loss) = try unit.writeWeights(weight, gram: gram, shift: shift) {
      try pruneBySparseGPT(
        weight, gram: gram, shift: shift, pattern: pattern, options: options, rows: unit.rows,
        on: unit.device, write: $0)
    }
    try unit.gather(&outcome.mask)
    try unit.write(outcome.mask)
    weight.tensor.release()
    if outcome.damping > options.damping {
      unit.note(
        "the Gram matrix is nearly singular: the damping was raised from \(options.damping) to \(outcome.damping)."
      )
    }
    var report = try unit.matrixReport(pattern)
    report.lossAfter = loss
    report.details = JSONObject([("damping", .number(outcome.damping))])
    return report
  }
}
