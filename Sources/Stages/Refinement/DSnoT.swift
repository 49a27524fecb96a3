import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// Refines masks by DSnoT (arXiv 2310.08915): prunes and restores weights until the mean of every output is that of the dense row.
public struct DSnoT: RefineStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "dsnot",
    summary:
      "Refines a mask by DSnoT: prunes and restores weights until the mean of every output is that of the dense row.",
    revision: 1
  ) { .matrix(DSnoT(&$0)) }

  private let options: DSnoTOptions

  init(_ parameters: inout Parameters) {
    var options = DSnoTOptions()
    options.cycles = parameters.integer(
      "cycles", default: options.cycles, in: 0...1_000_000, "The largest number of moves in one row.")
    options.threshold = parameters.number(
      "threshold", default: options.threshold, in: 0...1000,
      "A row is done when its expected error is at most this share of its root mean square error.")
    self.options = options
  }

  public func refiningByteCount(_ sizes: UnitSizes) -> Int {
    guard let matrix = sizes.matrix else { return 0 }
    return options.workingSet(
      rows: matrix.rows, columns: matrix.columns, pattern: sizes.pattern, threads: sizes.threads)
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    // The losses before and after. Each move reads all weights of a row.
    return Work(
      operations: matrix.gramOperations,
      memoryBytes: matrix.weights * (64 + 8 * Double(min(options.cycles, matrix.columns))))
  }

  public func refine(_ mask: inout Mask, of weight: LinearWeight, inputs: SiteFactor, _ unit: UnitContext)
    -> JSONObject
  {
    let outcome = refineByDSnoT(
      weight, diagonal: inputs.diagonal, means: inputs.sums.map { $0 / Double(inputs.tokens) },
      tokens: inputs.tokens, mask: &mask, options: options, on: unit.device)
    return JSONObject([
      ("expectedErrorBefore", .number(outcome.errorBefore)),
      ("expectedErrorAfter", .number(outcome.errorAfter)),
      ("moves", .integer(outcome.moves)), ("mostMovesOfARow", .integer(outcome.mostMoves)),
    ])
  }
}
