import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// Finds masks and weights together by ADMM.
public struct ADMM: MatrixStage {
  public static let name = "admm"
  public static let summary =
    "Finds masks and weights together by ADMM, as ALPS does: a dense and a sparse copy of each row are drawn together."
  public static let revision = 1

  private let choice: PatternChoice
  private let options: ADMMOptions

  public init(_ parameters: inout Parameters) {
    choice = PatternChoice(&parameters)
    var options = ADMMOptions()
    options.damping = parameters.number(
      "damping", default: options.damping, in: 0...1000,
      "What is added to the Gram matrix's diagonal, as a share of its mean.")
    options.penalty = parameters.number(
      "penalty", default: options.penalty, in: 1e-9...1e9, "What keeps the two copies together at first.")
    options.growth = parameters.number(
      "growth", default: options.growth, in: 1.001...100, "By how much that grows after every three steps.")
    options.limit = parameters.integer(
      "maxSteps", default: options.limit, in: 1...1_000_000, "The most steps of one row.")
    self.options = options
  }

  public var reads: Set<ArtifactKind> { choice.reads.union([.factor]) }
  public var writesWeights: Bool { true }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { choice.applies(to: matrix) }

  public func pattern(after previous: SparsityPattern?) -> SparsityPattern? { choice.planned }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws { try choice.check(model) }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    var needs = Reconstruct.fitting(sizes)
    let square = matrix.columns * matrix.columns * 4
    // The eigenvectors; and what they take while they are computed, which is before there are rows.
    needs.factor += square
    needs.rows = max(needs.rows, 2 * square)
    return needs
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    let columns = Double(matrix.columns)
    let steps = Double(min(options.limit, 30))
    // Eigenvectors, by one thread and bound by the memory half of the time; two products and a choice of weights a step.
    return Work(
      operations: 180 * columns * columns * columns + 2 * steps * matrix.gramOperations
        + Reconstruct.fittingOperations(matrix, sizes.pattern),
      memoryBytes: steps * (matrix.selectionBytes + 64 * matrix.weights))
  }

  public func run(_ unit: UnitContext) throws -> JSON {
    let weight = try unit.weight()
    let gram = try unit.factor().requireGram()
    let pattern = try choice.pattern(unit)
    let (outcome, loss) = try unit.writeWeights(weight, gram: gram) {
      try pruneByADMM(weight, gram: gram, pattern: pattern, options: options, write: $0)
    }
    try MaskFile.write(outcome.mask, to: unit.folder + "/" + MaskFile.name)
    weight.tensor.release()
    return .object(
      JSONObject(
        unit.matrixReport(pattern) + [
          ("lossAfter", .number(loss)), ("steps", .integer(outcome.steps)),
          ("mostStepsOfARow", .integer(outcome.mostSteps)), ("rowsAtLimit", .integer(outcome.rowsAtLimit)),
        ]))
  }
}
