import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// Refines masks by SparseFW (arXiv 2510.13713): Frank-Wolfe on the relaxed mask, then rounding.
public struct FrankWolfe: MatrixStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "frankWolfe",
    summary:
      "Refines a mask by SparseFW: solves the relaxed problem by Frank-Wolfe, rounds, and can certify the result.",
    revision: 1
  ) { .matrix(FrankWolfe(&$0)) }

  enum Budget: String, CaseIterable {
    case row
    case matrix
  }

  enum Order: String, CaseIterable {
    case magnitude
    case wanda
    case ria
  }

  /// The values that `alpha: auto` tries.
  private static let candidates = [0, 0.5, 0.75, 0.9]

  private let alphas: [Double]
  private let iterations: Int
  private let step: FrankWolfeOptions.Step
  private let tolerance: Double
  private let budget: Budget
  private let order: Saliency
  private let onlyImproves: Bool
  public let holdOut: Double

  init(_ parameters: inout Parameters) {
    let alpha = parameters.numberOrWord(
      "alpha", default: .number(0.9), in: 0...1, word: "auto",
      "Share of the kept weights that stay as they are, the most salient ones; 0 gives a certificate; auto tries 0, 0.5, 0.75 and 0.9 for each matrix and takes the best on held-out windows."
    )
    iterations = parameters.integer(
      "iterations", default: 500, in: 1...1_000_000, "Number of steps; the paper takes 2000.")
    step = parameters.choice(
      "step", default: .openLoop,
      "Step size: 2/(t+2), line search, or pairwise steps between two weights, which converge much faster."
    )
    tolerance = parameters.number(
      "tolerance", default: 1e-4, in: 0...1,
      "A row is done when its loss is at most this share of it above the relaxed optimum; 0 takes all steps.")
    budget = parameters.choice(
      "budget", default: .row, "Whether every row keeps its number of weights, or only the whole matrix.")
    let order: Order = parameters.choice(
      "saliency", default: .wanda, "The score by which alpha selects weights.")
    onlyImproves = parameters.flag(
      "onlyImproves", default: false,
      "Whether a row keeps its first mask if the rounded one is no better; the paper always rounds.")
    let share = parameters.optionalNumber(
      "holdOut", in: 0...0.9,
      "Share of the calibration windows that is held out to choose alpha; 0.1 with alpha: auto, else 0.")
    alphas = if case .number(let alpha) = alpha { [alpha] } else { Self.candidates }
    holdOut = share ?? (alphas.count > 1 ? 0.1 : 0)
    self.order =
      switch order {
      case .magnitude: .magnitude
      case .wanda: .wanda
      case .ria: .ria(power: 0.5)
      }
    if alphas.count > 1, holdOut == 0 { parameters.reject("alpha: auto needs holdOut, as 0.1.") }
  }

  public var reads: Set<ArtifactKind> { [.factor, .mask] }
  public var needsGram: Bool { true }

  public var followsTarget: Bool { false }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { true }

  public func pattern(after previous: PlannedPattern?) throws -> PlannedPattern? {
    guard budget == .matrix, let previous else { return previous }
    return try previous.requireAcrossRows()
  }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    let options = alphas.map { FrankWolfeOptions(alpha: $0, iterations: iterations, step: step) }
    let steps = options.map {
      $0.workingSet(
        rows: matrix.rows, columns: matrix.columns, pattern: sizes.patternOfAnySparsity,
        rank: sizes.factorRank,
        threads: sizes.threads)
    }
    let losses = Certificate.lossesWorkingSet(
      rows: matrix.rows, columns: matrix.columns, threads: sizes.threads)
    return WorkingSet(
      weightPages: sizes.tensorBytes, gramPages: sizes.factorBytes,
      rows: max(steps.max() ?? 0, losses) + 4 * matrix.rows * Mask.rowBytes(matrix.columns))
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    let columns = Double(matrix.columns)
    // Measured: a step changes a few per cent of a vertex and reads those rows of G. An iteration of pairwise steps has a step
    // for each entry of a row, which reads two rows of G, and a few iterations reach the tolerance.
    let traffic =
      step == .pairwise
      ? Double(min(iterations, 4)) * 16 * columns * columns
      : Double(iterations) * (0.1 * columns * columns + 60 * columns)
    let runs = Double(alphas.count)
    return Work(
      operations: runs * matrix.gramOperations * (3 + (holdOut > 0 ? 2 : 0)),
      memoryBytes: runs * Double(matrix.rows) * traffic)
  }

  public func run(_ unit: UnitContext) throws -> MatrixReport {
    let weight = try unit.weight()
    let factor = try unit.factor()
    let gram = try factor.requireGram()
    var start = try unit.mask()
    if budget == .matrix, let pattern = start.pattern.acrossRows { start = start.with(pattern) }
    var best: (alpha: Double, mask: Mask, outcome: FrankWolfeOutcome)?
    for (index, alpha) in alphas.enumerated() {
      let options = FrankWolfeOptions(
        alpha: alpha, iterations: iterations, step: step, tolerance: tolerance, saliency: order,
        heldOut: factor.heldOut, onlyImproves: onlyImproves)
      var mask = start
      let outcome = try frankWolfe(weight, gram: gram, mask: &mask, options: options, on: unit.device) {
        done, total in
        try unit.progress(index * total + done, of: alphas.count * total)
      }
      // If the losses are equal, the lower alpha wins: alpha 0 comes with a certificate.
      if let least = best?.outcome.heldOutAfter, least <= outcome.heldOutAfter ?? .infinity { continue }
      best = (alpha, mask, outcome)
    }
    guard let (alpha, mask, outcome) = best else {
      throw EspalierError.internalFault("Frank-Wolfe ran with no alpha.")
    }
    try unit.write(mask)
    var report = try unit.matrixReport(mask.pattern)
    report.lossBefore = outcome.lossBefore
    report.lossAfter = outcome.lossAfter
    report.details = JSONObject([
      ("relaxedLoss", .number(outcome.relaxedLoss)), ("gap", .number(outcome.gap)),
      ("alpha", .number(alpha)), ("rowIterations", .integer(outcome.rowIterations)),
      ("changedShare", .number(outcome.changedShare)), ("rowsKept", .integer(outcome.rowsKept)),
      ("heldOutBefore", .optional(outcome.heldOutBefore)),
      ("heldOutAfter", .optional(outcome.heldOutAfter)),
    ])
    if let certificate = outcome.certificate {
      try unit.write(certificate, mask, weight, gram, into: &report)
    }
    weight.tensor.release()
    return report
  }
}
