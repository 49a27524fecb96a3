import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// Finds masks and weights together by ADMM, as ALPS does (arXiv 2406.07831).
public struct ADMM: MatrixStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "admm",
    summary:
      "Finds masks and weights together by ADMM, as ALPS does: pulls a dense and a sparse copy of each row together.",
    revision: 3
  ) { .matrix(ADMM(&$0)) }

  private let choice: PatternChoice
  private let options: ADMMOptions

  init(_ parameters: inout Parameters) {
    choice = PatternChoice(&parameters)
    var options = ADMMOptions()
    options.damping = parameters.number(
      "damping", default: options.damping, in: 0...1000,
      "Added to the Gram matrix's diagonal, as a share of its mean.")
    options.penalty = parameters.number(
      "penalty", default: options.penalty, in: 1e-9...1e9,
      "Penalty for the difference between the two copies at first, as a multiple of the 5 % quantile of the Gram matrix's eigenvalues; it grows with the steps."
    )
    options.limit = parameters.integer(
      "maxSteps", default: options.limit, in: 1...1_000_000, "The largest number of steps of one row.")
    self.options = options
  }

  public var reads: Set<ArtifactKind> { choice.reads.union([.factor]) }
  public var needsGram: Bool { true }
  public var writesWeights: Bool { true }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { choice.applies(to: matrix) }

  public func pattern(after previous: PlannedPattern?) -> PlannedPattern? { choice.planned(after: previous) }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws { try choice.check(model) }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    return WorkingSet(
      weightPages: sizes.tensorBytes, gramPages: sizes.factorBytes,
      rows: 2 * matrix.rows * Mask.rowBytes(matrix.columns) + sizes.shiftByteCount()
        + ADMMOptions.workingSet(
          rows: matrix.rows, columns: matrix.columns, pattern: sizes.pattern, rank: sizes.factorRank,
          threads: sizes.threads, writing: sizes.writingByteCount))
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    let steps = Double(min(options.limit, 30))
    // After the eigenvectors, two products and a choice of weights per step.
    return Work(
      operations: Self.eigenOperations(matrix, threads: sizes.threads) + 2 * steps * matrix.gramOperations
        + Reconstruct.fittingOperations(matrix, sizes.pattern),
      memoryBytes: steps * (matrix.selectionBytes + 64 * matrix.weights))
  }

  public func repeatedWork(_ sizes: UnitSizes) -> Work? {
    sizes.matrix.map { Work(operations: Self.eigenOperations($0, threads: sizes.threads)) }
  }

  /// What all threads could do while one of them finds the eigenvectors; measured, for 576 to 4096 columns.
  private static func eigenOperations(_ matrix: ModelOutline.Matrix, threads: Int) -> Double {
    let columns = Double(matrix.columns)
    return 6 * Double(threads) * columns * columns * columns
  }

  public func run(_ unit: UnitContext) throws -> MatrixReport {
    let weight = try unit.weight()
    let gram = try unit.factor().requireGram()
    let shift = try unit.targetShift()
    let pattern = try choice.pattern(unit)
    var (found, loss) = try unit.writeWeights(weight, gram: gram, shift: shift) {
      try pruneByADMM(
        weight, gram: gram, shift: shift, pattern: pattern, options: options, rows: unit.rows,
        on: unit.device, write: $0)
    }
    let outcome = try unit.gather(found.outcomes, &found.mask).total
    try unit.write(found.mask)
    weight.tensor.release()
    var report = try unit.matrixReport(pattern)
    report.lossAfter = loss
    report.details = JSONObject([
      ("steps", .integer(outcome.steps)), ("mostStepsOfARow", .integer(outcome.mostSteps)),
      ("rowsAtLimit", .integer(outcome.rowsAtLimit)),
    ])
    return report
  }
}
