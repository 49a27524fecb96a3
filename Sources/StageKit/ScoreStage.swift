import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// A stage that makes the first mask of each matrix from a score of every weight: the highest scores of each row or group are kept,
/// with exact counts.
///
///     struct RandomMask: ScoreStage {
///       static let descriptor = StageDescriptor(
///         name: "randomMask", summary: "Keeps weights at random.", revision: 1
///       ) { .matrix(RandomMask(&$0)) }
///
///       let choice: PatternChoice
///       let readsInputs = false
///
///       init(_ parameters: inout Parameters) { choice = PatternChoice(&parameters) }
///
///       func scores(of weight: LinearWeight, inputs: SiteFactor?) -> RowScores {
///         { row, weights, scores in ... }
///       }
///     }
public protocol ScoreStage: MatrixStage {
  /// The pattern and the targets, which the initializer reads from the parameters.
  var choice: PatternChoice { get }
  /// Whether the scores depend on the inputs of the matrix: their norms, means or Gram matrix.
  var readsInputs: Bool { get }
  /// The function that scores the rows of one matrix.
  ///
  /// - Parameter inputs: nil if ``readsInputs`` is false.
  func scores(of weight: LinearWeight, inputs: SiteFactor?) throws -> RowScores
}

extension ScoreStage {
  public var reads: Set<ArtifactKind> { choice.reads.union(readsInputs ? [.factor] : []) }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { choice.applies(to: matrix) }

  public func pattern(after previous: PlannedPattern?) -> PlannedPattern? { choice.planned(after: previous) }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws { try choice.check(model) }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet { sizes.withLossFactor(besideFactor(sizes)) }

  private func besideFactor(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    return WorkingSet(
      weightPages: sizes.tensorBytes,
      rows: sizes.maskBytes
        + max(
          scoringByteCount(rows: matrix.rows, columns: matrix.columns, threads: sizes.threads),
          sizes.lossByteCount))
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    // Half a product for the loss.
    return Work(
      operations: readsInputs ? matrix.gramOperations / 2 : 0, memoryBytes: matrix.selectionBytes)
  }

  public func run(_ unit: UnitContext) throws -> MatrixReport {
    let weight = try unit.weight()
    let pattern = try choice.pattern(unit)
    let factor = readsInputs ? try unit.lossFactor(beside: besideFactor) : nil
    let (mask, notFinite) = highestScoring(
      weight, try scores(of: weight, inputs: factor), pattern: pattern, on: unit.device)
    if let notFinite {
      throw EspalierError.badInput("a score of row \(notFinite) is not a finite number.")
    }
    try unit.write(mask)
    var report = try unit.matrixReport(pattern)
    if let gram = factor?.gram { report.lossAfter = Loss(gram, on: unit.device).of(weight, mask) }
    weight.tensor.release()
    return report
  }
}
