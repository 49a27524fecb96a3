import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// Prunes by SparseGPT: column by column, with the weights to the right making up for each that goes.
public struct SparseGPT: MatrixStage {
  public static let name = "sparseGPT"
  public static let summary =
    "Makes masks and fits weights by SparseGPT: column by column, each loss made up for by the weights to the right."
  public static let revision = 1

  enum Budget: String, CaseIterable {
    case row
    case matrix
  }

  private let choice: PatternChoice
  private let budget: Budget
  private let damping: Double
  private let blockColumns: Int

  public init(_ parameters: inout Parameters) {
    choice = PatternChoice(&parameters)
    budget = parameters.choice(
      "budget", default: .row,
      "Whether every row prunes its share of each block of columns, or all rows together do, as in the published code."
    )
    let options = SparseGPTOptions()
    damping = parameters.number(
      "damping", default: options.damping, in: 0...1,
      "What is added to the Gram matrix's diagonal, as a share of its mean; ten times as much where that is not enough, and the report says so."
    )
    blockColumns = parameters.integer(
      "blockColumns", default: options.blockColumns, in: 1...65_536,
      "Columns whose masks are chosen at a time.")
  }

  public var reads: Set<ArtifactKind> { choice.reads.union([.factor]) }
  public var writesWeights: Bool { true }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { choice.applies(to: matrix) }

  public func pattern(after previous: SparsityPattern?) -> SparsityPattern? { wide(choice.planned) }

  /// The pattern where rows share their budget; groups have one each, whatever the budget.
  private func wide(_ pattern: SparsityPattern) -> SparsityPattern {
    guard budget == .matrix, case .rows(let sparsity) = pattern else { return pattern }
    return .matrix(sparsity: sparsity)
  }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws { try choice.check(model) }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    let rows = budget == .matrix ? matrix.rows : min(256, matrix.rows)
    // The factor of the inverse beside the Gram matrix; rows, their errors and roundings, and buffers of the products.
    return WorkingSet(
      weights: sizes.tensorBytes, factor: sizes.factorBytes + matrix.columns * matrix.columns * 4,
      rows: rows * (matrix.columns * 20 + blockColumns * 13) + 2 * matrix.rows * Mask.rowBytes(matrix.columns)
        + sizes.threads * 3 << 20)
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    let columns = Double(matrix.columns)
    // The factor of the inverse, what each block of columns takes from those to its right, and the loss; inside a block the
    // columns go one by one.
    return Work(
      operations: columns * columns * columns * 2 / 3 + 1.5 * matrix.gramOperations,
      memoryBytes: matrix.weights * (6 * Double(blockColumns) + 64))
  }

  public func run(_ unit: UnitContext) throws -> JSON {
    let weight = try unit.weight()
    let gram = try unit.factor().requireGram()
    let pattern = wide(try choice.pattern(unit))
    let options = SparseGPTOptions(damping: damping, blockColumns: blockColumns)
    let (outcome, loss) = try unit.writeWeights(weight, gram: gram) {
      try pruneBySparseGPT(weight, gram: gram, pattern: pattern, options: options, write: $0)
    }
    try MaskFile.write(outcome.mask, to: unit.folder + "/" + MaskFile.name)
    weight.tensor.release()
    if outcome.damping > damping {
      unit.note(
        "the Gram matrix is nearly singular: the damping was raised from \(damping) to \(outcome.damping).")
    }
    return .object(
      JSONObject(
        unit.matrixReport(pattern) + [
          ("lossAfter", .number(loss)), ("damping", .number(outcome.damping)),
        ]))
  }
}
