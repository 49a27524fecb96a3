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
  private let pattern: SparsityPattern
  private let targets: TargetFilter

  public init(_ parameters: inout Parameters) {
    method = parameters.choice(
      "method", default: .wanda,
      "How salient a weight is: |W|, |W| times the norm of its input, or its share of row and column times that norm to a power."
    )
    power = parameters.number("power", default: 0.5, in: 0...4, "Power of the input's norm in RIA.")
    let sparsity = parameters.optionalNumber(
      "sparsity", in: 0...1, "Share of every row that is pruned; or give keep and of.")
    let keep = parameters.optionalInteger(
      "keep", in: 0...65_536, "N:M: weights kept of every group, as 2 in 2:4.")
    let of = parameters.optionalInteger("of", in: 1...65_536, "N:M: weights of a group, as 4 in 2:4.")
    pattern = Self.pattern(sparsity, keep, of, &parameters)
    targets = TargetFilter(&parameters)
  }

  private static func pattern(_ sparsity: Double?, _ keep: Int?, _ of: Int?, _ parameters: inout Parameters)
    -> SparsityPattern
  {
    switch (sparsity, keep, of) {
    case (let sparsity?, nil, nil): return .rows(sparsity: sparsity)
    case (nil, let keep?, let of?):
      if keep > of { parameters.reject("keep (\(keep)) must not be larger than of (\(of)).") }
      return .groups(keep: min(keep, of), of: of)
    case (nil, nil, nil): parameters.reject("give sparsity (as 0.6), or keep and of (as 2 and 4).")
    case (nil, _, _): parameters.reject("keep and of belong together, as keep: 2, of: 4.")
    default:
      parameters.reject(
        "give either sparsity or keep and of, not both; --set STAGE.sparsity= takes a value of the recipe away."
      )
    }
    return .rows(sparsity: 0)
  }

  public var reads: Set<ArtifactKind> { method == .magnitude ? [] : [.factor] }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { targets.contains(matrix.module) }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws {
    try targets.check(model)
    for matrix in model.matrices where applies(to: matrix) && !pattern.fits(columns: matrix.columns) {
      throw EspalierError.usage(
        "\(matrix.module) has \(matrix.columns) inputs, which \(pattern) does not divide; choose another `of`, or put the matrix on the ignore list."
      )
    }
  }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    return WorkingSet(
      rows: matrix.rows * Mask.rowBytes(matrix.columns) + sizes.threads * matrix.columns * 32
        + Swap.blockBytes(matrix))
  }

  public func run(_ unit: UnitContext) throws -> JSON {
    let weight = try unit.weight()
    try weight.tensor.requireFinite()
    let factor = try reads.contains(.factor) ? SiteFactor(path: unit.input(.factor, SiteFactor.object)) : nil
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
    return try LinearWeight(checkpoint.tensor(matrix.tensor, shape: [matrix.rows, matrix.columns]))
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
