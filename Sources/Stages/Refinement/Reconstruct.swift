import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// Fits the kept weights of every matrix to its mask by least squares.
public struct Reconstruct: MatrixStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "reconstruct",
    summary:
      "Fits the kept weights so that they make up for the pruned ones; the mask does not change.",
    revision: 1
  ) { .matrix(Reconstruct(&$0)) }

  private let damping: Double
  private let tolerance: Double

  init(_ parameters: inout Parameters) {
    let options = ReconstructOptions()
    damping = parameters.number(
      "damping", default: options.damping, in: 0...1000,
      "The cost of moving a weight away from its first value, as a share of the mean of the Gram matrix's diagonal."
    )
    tolerance = parameters.number(
      "tolerance", default: options.tolerance, in: 1e-9...1,
      "A row is done when its gradient is this share of the first one.")
  }

  public var reads: Set<ArtifactKind> { [.factor, .mask] }
  public var needsGram: Bool { true }
  public var writesWeights: Bool { true }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { true }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    return WorkingSet(
      weightPages: sizes.tensorBytes, gramPages: sizes.factorBytes,
      rows: 2 * matrix.rows * Mask.rowBytes(matrix.columns) + sizes.shiftByteCount()
        + ReconstructOptions.workingSet(
          rows: matrix.rows, columns: matrix.columns, pattern: sizes.pattern, rank: sizes.factorRank,
          threads: sizes.threads, writing: sizes.writingByteCount))
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    return Work(operations: Self.fittingOperations(matrix, sizes.pattern), memoryBytes: matrix.weights * 64)
  }

  public func repeatedWork(_ sizes: UnitSizes) -> Work? { Work() }

  /// Operations of fitting all rows, by a factorization for each row or by conjugate gradients, and of the losses before and after.
  static func fittingOperations(_ matrix: ModelOutline.Matrix, _ pattern: SparsityPattern?) -> Double {
    let kept = pattern?.kept(ofColumns: matrix.columns) ?? matrix.columns / 2
    return Double(matrix.rows) * ReconstructOptions.operations(kept: kept, columns: matrix.columns)
      + 2 * matrix.gramOperations
  }

  public func run(_ unit: UnitContext) throws -> MatrixReport {
    let weight = try unit.weight()
    let gram = try unit.factor().requireGram()
    let shift = try unit.targetShift()
    var mask = try unit.mask()
    let options = ReconstructOptions(damping: damping, tolerance: tolerance)
    let (outcomes, loss) = try unit.writeWeights(weight, gram: gram, shift: shift) {
      try reconstruct(
        weight, gram: gram, shift: shift, mask: mask, options: options, rows: unit.rows,
        on: unit.device, write: $0)
    }
    let outcome = try unit.gather(outcomes, &mask).total
    try unit.write(mask)
    weight.tensor.release()
    var report = try unit.matrixReport(mask.pattern)
    report.lossBefore = outcome.lossBefore
    report.lossAfter = loss
    report.details = JSONObject([
      ("steps", .integer(outcome.steps)), ("mostStepsOfARow", .integer(outcome.mostSteps)),
      ("rowsAtLimit", .integer(outcome.rowsAtLimit)),
    ])
    return report
  }
}
