import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// Refines masks by SparseSwaps (arXiv 2512.10922): in every row the best exchange of a kept and a pruned weight, until none helps. With
/// `objective: refit` the exchange is the best for the loss after the kept weights are fitted, and they are fitted.
public struct Swap: MatrixStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "swap",
    summary:
      "Refines a mask by SparseSwaps: the best exchange of a kept and a pruned weight in every row, until none helps; for the weights as they are, or for those fitted to the mask.",
    revision: 2
  ) { .matrix(Swap(&$0)) }

  enum Objective: String, CaseIterable {
    case mask
    case refit
  }

  enum Budget: String, CaseIterable {
    case row
    case matrix
  }

  /// The largest number of patterns of one group that can be tried.
  private static let mostPatterns = 1000

  private let objective: Objective
  private let damping: Double
  private let maxSwaps: Int?
  private let moves: SwapOptions.Moves
  private let budget: Budget
  private let floor: Double
  public let holdOut: Double

  init(_ parameters: inout Parameters) {
    objective = parameters.choice(
      "objective", default: .mask,
      "What a swap lowers: the loss of the mask with the weights as they are, or the loss after the kept weights are fitted; refit fits and writes them, too. It is best after swaps for the mask."
    )
    let fit = ReconstructOptions()
    damping = parameters.number(
      "damping", default: fit.damping, in: 0...1000,
      "With objective: refit, the cost of moving a weight away from its first value, as a share of the mean of the Gram matrix's diagonal."
    )
    maxSwaps = parameters.optionalInteger(
      "maxSwaps", in: 1...1_000_000_000,
      "The largest number of swaps in one row; none continues to the local optimum.")
    moves = parameters.choice(
      "moves", default: .single,
      "single exchanges one weight for another; group, for N:M, chooses the best pattern of a whole group.")
    budget = parameters.choice(
      "budget", default: .row,
      "Whether every row keeps its number of weights, or kept weights may also move from row to row.")
    floor = parameters.number(
      "floor", default: 0.5, in: 0...1,
      "With budget: matrix, the fewest weights that a row keeps, as a share of those that it kept at first.")
    holdOut = parameters.number(
      "holdOut", default: 0, in: 0...0.9,
      "Share of the calibration windows that is held out; a row stops when its error on them stops falling."
    )
    if budget == .matrix, holdOut > 0 { parameters.reject("holdOut works with budget: row only.") }
    if objective == .refit, holdOut > 0 { parameters.reject("holdOut works with objective: mask only.") }
    if objective == .refit, moves == .group {
      parameters.reject("moves: group works with objective: mask only.")
    }
    if budget == .matrix, moves == .group { parameters.reject("moves: group works with budget: row only.") }
  }

  public var reads: Set<ArtifactKind> { [.factor, .mask] }
  public var needsGram: Bool { true }

  public var writesWeights: Bool { objective == .refit }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { true }

  public func pattern(after previous: PlannedPattern?) throws -> PlannedPattern? {
    guard let previous else { return nil }
    if moves == .group {
      // An allocated group has the most patterns if half of it is kept.
      let (kept, of) =
        switch previous {
        case .known(.groups(let kept, let of)): (kept, of)
        case .allocatedGroups(let of): (of / 2, of)
        default:
          throw EspalierError.usage("moves: group needs an N:M mask, but this one prunes \(previous).")
        }
      guard patterns(kept, of) <= Self.mostPatterns else {
        throw EspalierError.usage(
          "a group of \(kept):\(of) has more than \(Self.mostPatterns) patterns; use moves: single.")
      }
    }
    return budget == .matrix ? try previous.requireAcrossRows() : previous
  }

  /// Patterns of a group: `of` over `kept`, or more than are allowed.
  private func patterns(_ kept: Int, _ of: Int) -> Int {
    var count = 1
    for taken in 0..<min(kept, of - kept) {
      count = count * (of - taken) / (taken + 1)
      if count > Self.mostPatterns { break }
    }
    return count
  }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    if objective == .refit {
      return WorkingSet(
        weightPages: sizes.tensorBytes, gramPages: sizes.factorBytes,
        rows: 2 * matrix.rows * Mask.rowBytes(matrix.columns) + sizes.shiftByteCount()
          + RefitSwapOptions.workingSet(
            rows: matrix.rows, columns: matrix.columns, pattern: sizes.pattern, rank: sizes.factorRank,
            threads: sizes.threads, writing: sizes.writingByteCount))
    }
    // The Gram matrix is mapped, but counts: all of it is read again and again.
    let options = SwapOptions(moves: moves, budget: budget == .row ? .row : .matrix(floor: floor))
    return WorkingSet(
      weightPages: sizes.tensorBytes, gramPages: sizes.factorBytes,
      rows: 2 * matrix.rows * Mask.rowBytes(matrix.columns)
        + sizes.shiftByteCount(isAcrossRows: budget == .matrix) * (holdOut > 0 ? 2 : 1)
        + max(
          options.workingSet(
            rows: matrix.rows, columns: matrix.columns, pattern: sizes.pattern, rank: sizes.factorRank,
            holdsOut: holdOut > 0, threads: sizes.threads),
          Certificate.lossesWorkingSet(rows: matrix.rows, columns: matrix.columns, threads: sizes.threads)))
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    let columns = Double(matrix.columns)
    if objective == .refit {
      return Work(
        operations: Double(matrix.rows)
          * RefitSwapOptions.operations(columns: matrix.columns, pattern: sizes.pattern)
          + Self.inverseOperations(columns) + Reconstruct.fittingOperations(matrix, sizes.pattern),
        memoryBytes: matrix.weights * 400)
    }
    let isGrouped = if case .groups = sizes.pattern { true } else { false }
    // Measured on trained models: swaps of a row until its optimum, and the bytes that each of them reads, mostly two rows of G.
    let optimum = (isGrouped ? 0.11 : 0.12) * columns * (budget == .matrix ? 3 : 1)
    let swaps = maxSwaps.map { min(Double($0), optimum) } ?? optimum
    let traffic = (isGrouped ? 8 : 24) * columns * (holdOut > 0 ? 2 : 1)
    return Work(
      // The correlations at the start, and half a product for the losses at the end.
      operations: matrix.gramOperations * (holdOut > 0 ? 2.5 : 1.5),
      memoryBytes: Double(matrix.rows) * swaps * traffic + matrix.weights * 64 + columns * columns * 4)
  }

  public func repeatedWork(_ sizes: UnitSizes) -> Work? {
    guard budget == .row, let matrix = sizes.matrix else { return nil }
    let columns = Double(matrix.columns)
    return objective == .refit
      ? Work(operations: Self.inverseOperations(columns)) : Work(memoryBytes: columns * columns * 4)
  }

  /// Operations of the diagonal of the Gram matrix's inverse.
  private static func inverseOperations(_ columns: Double) -> Double { columns * columns * columns * 2 / 3 }

  public func run(_ unit: UnitContext) throws -> MatrixReport {
    let weight = try unit.weight()
    let factor = try unit.factor()
    let gram = try factor.requireGram()
    let shift = try unit.targetShift()
    var mask = try unit.mask()
    if objective == .refit {
      let report = try refineForFit(unit, weight, gram, shift, &mask)
      try unit.write(mask)
      weight.tensor.release()
      return report
    }
    var report =
      switch budget {
      case .row: try refineRows(unit, weight, gram, shift, heldOut: holdOut > 0 ? factor.heldOut : nil, &mask)
      case .matrix: try refineMatrix(unit, weight, gram, shift, &mask)
      }
    try unit.write(mask)
    try unit.carryCertificate(mask, weight, gram, into: &report)
    weight.tensor.release()
    return report
  }

  private func refineRows(
    _ unit: UnitContext, _ weight: LinearWeight, _ gram: GramMatrix, _ shift: TargetShift?,
    heldOut: GramMatrix?, _ mask: inout Mask
  ) throws -> MatrixReport {
    let options = try SwapOptions(
      limit: maxSwaps, moves: moves, heldOut: heldOut,
      heldOutShift: heldOut == nil ? nil : unit.targetShift(onHeldOut: true))
    let outcomes = try refineBySwaps(
      weight, gram: gram, shift: shift, mask: &mask, options: options, rows: unit.rows, on: unit.device
    ) {
      done, total in
      try unit.progress(done, of: total)
    }
    let outcome = try unit.gather(outcomes, &mask).total
    var report = try unit.matrixReport(mask.pattern)
    report.lossBefore = outcome.lossBefore
    report.lossAfter = outcome.lossAfter
    report.swaps = outcome.swaps
    report.details = JSONObject([
      ("mostSwapsOfARow", .integer(outcome.mostSwaps)), ("rowsAtLimit", .integer(outcome.rowsAtLimit)),
      ("evaluatedPairs", .integer(outcome.evaluatedPairs)), ("allPairs", .integer(outcome.allPairs)),
      ("drift", .number(outcome.drift)),
    ])
    if heldOut != nil {
      report.details.members += [
        ("heldOutBefore", .number(outcome.heldOutBefore)), ("heldOutAfter", .number(outcome.heldOutAfter)),
        ("rowsStoppedByHeldOut", .integer(outcome.rowsStoppedByHeldOut)),
      ]
    }
    return report
  }

  private func refineForFit(
    _ unit: UnitContext, _ weight: LinearWeight, _ gram: GramMatrix, _ shift: TargetShift?,
    _ mask: inout Mask
  ) throws -> MatrixReport {
    let options = RefitSwapOptions(
      limit: maxSwaps, budget: budget == .row ? .row : .matrix(floor: floor),
      fit: ReconstructOptions(damping: damping))
    let start = mask
    let (found, loss) = try unit.writeWeights(weight, gram: gram, shift: shift) {
      try refineByRefitSwaps(
        weight, gram: gram, shift: shift, mask: start, options: options, rows: unit.rows, on: unit.device,
        write: $0)
    }
    mask = found.mask
    let outcome = try unit.gather(found.outcomes, &mask).total
    var report = try unit.matrixReport(mask.pattern)
    report.lossBefore = outcome.lossBefore
    report.lossAfter = loss
    report.swaps = outcome.swaps
    report.details = JSONObject([
      ("fittedBefore", .number(outcome.fittedBefore)), ("mostSwapsOfARow", .integer(outcome.mostSwaps)),
      ("rowsAtLimit", .integer(outcome.rowsAtLimit)), ("rowsTakenBack", .integer(outcome.rowsTakenBack)),
    ])
    if budget == .matrix { report.details.members.append(("moves", .integer(outcome.moves))) }
    return report
  }

  private func refineMatrix(
    _ unit: UnitContext, _ weight: LinearWeight, _ gram: GramMatrix, _ shift: TargetShift?,
    _ mask: inout Mask
  ) throws -> MatrixReport {
    let options = SwapOptions(limit: maxSwaps, budget: .matrix(floor: floor))
    let outcome = try refineAcrossRows(
      weight, gram: gram, shift: shift, mask: &mask, options: options, on: unit.device
    ) {
      done, total in
      try unit.progress(done, of: total)
    }
    var report = try unit.matrixReport(mask.pattern)
    report.lossBefore = outcome.lossBefore
    report.lossAfter = outcome.lossAfter
    report.swaps = outcome.swaps
    report.details = JSONObject([
      ("mostSwapsOfARow", .integer(outcome.mostSwaps)), ("rowsAtLimit", .integer(outcome.rowsAtLimit)),
      ("moves", .integer(outcome.moves)),
      ("fewestKept", .integer(outcome.fewestKept)), ("mostKept", .integer(outcome.mostKept)),
      ("evaluatedPairs", .integer(outcome.evaluatedPairs)), ("allPairs", .integer(outcome.allPairs)),
      ("drift", .number(outcome.drift)),
    ])
    return report
  }
}
