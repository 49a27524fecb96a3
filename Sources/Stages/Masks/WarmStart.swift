import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline

/// Makes the first mask of every target matrix from the saliency of its weights.
public struct WarmStart: MatrixStage {
  public static let descriptor = StageDescriptor(
    name: "warmStart",
    summary:
      "Makes the first mask of every matrix: the most salient weights of each row or group, with exact counts.",
    revision: 1
  ) { .matrix(WarmStart(&$0)) }

  enum Method: String, CaseIterable {
    case magnitude
    case wanda
    case ria
  }

  private let method: Method
  private let power: Double
  private let choice: PatternChoice

  init(_ parameters: inout Parameters) {
    method = parameters.choice(
      "method", default: .wanda,
      "Saliency of a weight: |W|; |W| times the norm of its input; or its share of row and column, times that norm to a power."
    )
    power = parameters.number("power", default: 0.5, in: 0...4, "With ria, the power of the input's norm.")
    choice = PatternChoice(&parameters)
  }

  public var reads: Set<ArtifactKind> { choice.reads.union(method == .magnitude ? [] : [.factor]) }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { choice.applies(to: matrix) }

  public func pattern(after previous: PlannedPattern?) -> PlannedPattern? { choice.planned }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws { try choice.check(model) }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet { sizes.withLossFactor(besideFactor(sizes)) }

  private func besideFactor(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    return WorkingSet(
      weightPages: sizes.tensorBytes,
      rows: matrix.rows * Mask.rowBytes(matrix.columns)
        + max(
          Saliency.workingSet(rows: matrix.rows, columns: matrix.columns, threads: sizes.threads),
          sizes.readsGram
            ? Loss.workingSet(
              rows: matrix.rows, columns: matrix.columns, rank: sizes.factorRank, threads: sizes.threads)
            : 0))
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    // Half a product for the loss.
    return Work(
      operations: method == .magnitude ? 0 : matrix.gramOperations / 2, memoryBytes: matrix.selectionBytes)
  }

  public func run(_ unit: UnitContext) throws -> MatrixReport {
    let weight = try unit.weight()
    let pattern = try choice.pattern(unit)
    let factor = try method == .magnitude ? nil : unit.lossFactor(beside: besideFactor)
    let saliency: Saliency =
      switch method {
      case .magnitude: .magnitude
      case .wanda: .wanda
      case .ria: .ria(power: power)
      }
    let mask = mostSalient(
      weight, saliency, diagonal: factor?.diagonal ?? [], pattern: pattern, on: unit.device)
    try MaskFile.write(mask, to: unit.folder + "/" + MaskFile.name)
    var report = try unit.matrixReport(pattern)
    if let gram = factor?.gram { report.lossAfter = Loss(gram, on: unit.device).of(weight, mask) }
    weight.tensor.release()
    return report
  }
}

extension UnitContext {
  /// The unit's matrix in the checkpoint.
  func weight() throws -> LinearWeight {
    let matrix = try requireMatrix()
    return try LinearWeight(checkpoint.stored(matrix), order: matrix.order, pruned: nil)
  }

  /// A report on the unit's matrix, without losses.
  func matrixReport(_ pattern: SparsityPattern) throws -> MatrixReport {
    MatrixReport(try requireMatrix(), pattern)
  }

  private func requireMatrix() throws -> ModelOutline.Matrix {
    guard let matrix else { throw EspalierError.internalFault("the unit \(unit.id) has no matrix.") }
    return matrix
  }
}
