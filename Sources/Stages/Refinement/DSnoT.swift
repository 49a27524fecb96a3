import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// Refines masks by DSnoT (arXiv 2310.08915): prunes and restores weights until the mean of every output is that of the dense row.
public struct DSnoT: MatrixStage {
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

  public var reads: Set<ArtifactKind> { [.factor, .mask] }

  public var followsTarget: Bool { false }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { true }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet { sizes.withLossFactor(besideFactor(sizes)) }

  private func besideFactor(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    return WorkingSet(
      weightPages: sizes.tensorBytes,
      rows: 2 * matrix.rows * Mask.rowBytes(matrix.columns)
        + max(
          options.workingSet(
            rows: matrix.rows, columns: matrix.columns, pattern: sizes.pattern, threads: sizes.threads),
          sizes.readsGram
            ? Loss.workingSet(
              rows: matrix.rows, columns: matrix.columns, rank: sizes.factorRank, threads: sizes.threads)
            : 0,
          Certificate.lossesWorkingSet(
            rows: matrix.rows, columns: matrix.columns, threads: sizes.threads)))
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    // The losses before and after. Each move reads all weights of a row.
    return Work(
      operations: matrix.gramOperations,
      memoryBytes: matrix.weights * (64 + 8 * Double(min(options.cycles, matrix.columns))))
  }

  public func run(_ unit: UnitContext) throws -> MatrixReport {
    let weight = try unit.weight()
    let factor = try unit.lossFactor(beside: besideFactor)
    var mask = try MaskFile.read(unit.input(.mask, MaskFile.name))
    let before = factor.gram.map { Loss($0, on: unit.device).of(weight, mask) }
    let outcome = refineByDSnoT(
      weight, diagonal: factor.diagonal, means: factor.sums.map { $0 / Double(factor.tokens) },
      tokens: factor.tokens, mask: &mask, options: options, on: unit.device)
    try MaskFile.write(mask, to: unit.folder + "/" + MaskFile.name)
    let after = factor.gram.map { Loss($0, on: unit.device).of(weight, mask) }
    var report = try unit.matrixReport(mask.pattern)
    report.lossBefore = before
    report.lossAfter = after
    report.details = JSONObject([
      ("expectedErrorBefore", .number(outcome.errorBefore)),
      ("expectedErrorAfter", .number(outcome.errorAfter)),
      ("moves", .integer(outcome.moves)), ("mostMovesOfARow", .integer(outcome.mostMoves)),
    ])
    if let gram = factor.gram { try unit.carryCertificate(mask, weight, gram, into: &report) }
    weight.tensor.release()
    return report
  }
}
