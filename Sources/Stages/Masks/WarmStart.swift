import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline

/// Makes the first mask of every target matrix from the saliency of single weights.
public struct WarmStart: MatrixStage {
  public static let name = "warmStart"
  public static let summary =
    "Makes the first mask of every matrix: the most salient weights of each row or group, with exact counts."
  public static let revision = 1

  enum Method: String, CaseIterable {
    case magnitude
    case wanda
    case ria
  }

  private let method: Method
  private let power: Double
  private let choice: PatternChoice

  public init(_ parameters: inout Parameters) {
    method = parameters.choice(
      "method", default: .wanda,
      "How salient a weight is: |W|, |W| times the norm of its input, or its share of row and column times that norm to a power."
    )
    power = parameters.number("power", default: 0.5, in: 0...4, "Power of the input's norm in RIA.")
    choice = PatternChoice(&parameters)
  }

  public var reads: Set<ArtifactKind> { choice.reads.union(method == .magnitude ? [] : [.factor]) }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { choice.applies(to: matrix) }

  public func pattern(after previous: SparsityPattern?) -> SparsityPattern? { choice.planned }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws { try choice.check(model) }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet { sizes.withLossFactor(besideFactor(sizes)) }

  private func besideFactor(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    return WorkingSet(
      weights: sizes.tensorBytes,
      rows: matrix.rows * Mask.rowBytes(matrix.columns) + sizes.threads * matrix.columns * 32
        + Swap.blockBytes(matrix))
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    // The loss by half a product.
    return Work(
      operations: method == .magnitude ? 0 : matrix.gramOperations / 2, memoryBytes: matrix.selectionBytes)
  }

  public func run(_ unit: UnitContext) throws -> JSON {
    let weight = try unit.weight()
    let pattern = try choice.pattern(unit)
    let factor = try method == .magnitude ? nil : unit.lossFactor(beside: besideFactor)
    let saliency: Saliency =
      switch method {
      case .magnitude: .magnitude
      case .wanda: .wanda
      case .ria: .ria(power: power)
      }
    let mask = mostSalient(weight, saliency, diagonal: factor?.diagonal ?? [], pattern: pattern)
    try MaskFile.write(mask, to: unit.folder + "/" + MaskFile.name)
    var report = unit.matrixReport(pattern)
    if let gram = factor?.gram {
      report.append(("lossAfter", .number(maskLoss(weight, gram: gram, mask: mask))))
    }
    weight.tensor.release()
    return .object(JSONObject(report))
  }
}

extension UnitContext {
  /// The matrix of the unit, as it stands in the checkpoint.
  func weight() throws -> LinearWeight {
    guard let matrix else { throw EspalierError.internalFault("the unit \(unit.id) has no matrix.") }
    return try LinearWeight(checkpoint.stored(matrix), order: matrix.order, pruned: nil)
  }

  /// What every report on a matrix begins with.
  func matrixReport(_ pattern: SparsityPattern) -> [(key: String, value: JSON)] {
    [
      ("matrix", .string(matrix?.module ?? "")), ("rows", .integer(matrix?.rows ?? 0)),
      ("columns", .integer(matrix?.columns ?? 0)),
      ("pattern", .string(pattern.description)),
    ]
  }
}
