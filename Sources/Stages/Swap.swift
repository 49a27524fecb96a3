import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// Refines masks by SparseSwaps: in every row the best exchange of a kept and a pruned weight, again and again.
public struct Swap: MatrixStage {
  public static let name = "swap"
  public static let summary =
    "Refines a mask by SparseSwaps: the best exchange of a kept and a pruned weight in every row, until none helps."
  public static let revision = 1

  private let maxSwaps: Int?

  public init(_ parameters: inout Parameters) {
    maxSwaps = parameters.optionalInteger(
      "maxSwaps", in: 1...1_000_000_000, "The most swaps of one row; none goes on to the local optimum.")
  }

  public var reads: Set<ArtifactKind> { [.factor, .mask] }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { true }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    // The Gram matrix is mapped; all of it is read again and again, so that it counts.
    return WorkingSet(
      factor: matrix.columns * matrix.columns * 4,
      rows: Self.blockBytes(matrix) + 2 * matrix.rows * Mask.rowBytes(matrix.columns) + sizes.threads
        * matrix.columns * 28)
  }

  /// Bytes of the block of rows that is refined at a time.
  static func blockBytes(_ matrix: ModelOutline.Matrix) -> Int { min(256, matrix.rows) * matrix.columns * 13 }

  public func run(_ unit: UnitContext) throws -> JSON {
    let weight = try unit.weight()
    guard let gram = try SiteFactor(path: unit.input(.factor, SiteFactor.object)).gram else {
      throw EspalierError.usage(
        "swaps need Gram matrices, but the recipe's factor keeps only diagonals; set factor.kind=gram.")
    }
    var mask = try MaskFile.read(unit.input(.mask, MaskFile.name))
    let outcome = refineBySwaps(weight, gram: gram, mask: &mask, options: SwapOptions(limit: maxSwaps))
    try MaskFile.write(mask, to: unit.folder + "/" + MaskFile.name)
    weight.tensor.release()
    return .object(
      JSONObject(
        unit.matrixReport(mask.pattern) + [
          ("lossBefore", .number(outcome.lossBefore)), ("lossAfter", .number(outcome.lossAfter)),
          ("swaps", .integer(outcome.swaps)),
          ("mostSwapsOfARow", .integer(outcome.mostSwaps)), ("rowsAtLimit", .integer(outcome.rowsAtLimit)),
          ("evaluatedPairs", .integer(outcome.evaluatedPairs)), ("allPairs", .integer(outcome.allPairs)),
        ]))
  }
}
