import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// Refines masks by SparseSwaps: in every row the best exchange of a kept and a pruned weight, again and again.
public struct Swap: MatrixStage {
  public static let name = "swap"
  public static let summary =
    "Refines a mask by SparseSwaps: the best exchange of a kept and a pruned weight in every row, until none helps."
  public static let revision = 2

  enum Budget: String, CaseIterable {
    case row
    case matrix
  }

  /// Patterns of one group that are tried at a time, at most.
  private static let mostPatterns = 1000

  private let maxSwaps: Int?
  private let moves: SwapOptions.Moves
  private let budget: Budget
  private let floor: Double
  public let holdOut: Double

  public init(_ parameters: inout Parameters) {
    maxSwaps = parameters.optionalInteger(
      "maxSwaps", in: 1...1_000_000_000, "The most swaps of one row; none goes on to the local optimum.")
    moves = parameters.choice(
      "moves", default: .single,
      "One weight against another, or, for N:M, the best pattern of a whole group at once.")
    budget = parameters.choice(
      "budget", default: .row,
      "Whether every row keeps its number of weights, or kept weights may also move from row to row.")
    floor = parameters.number(
      "floor", default: 0.5, in: 0...1,
      "With budget: matrix, the least that a row keeps, as a share of what it kept at first.")
    holdOut = parameters.number(
      "holdOut", default: 0, in: 0...0.9,
      "Share of the calibration windows that is kept apart; a row stops where its error on them stops falling."
    )
    if budget == .matrix, holdOut > 0 { parameters.reject("holdOut works with budget: row only.") }
    if budget == .matrix, moves == .group { parameters.reject("moves: group works with budget: row only.") }
  }

  public var reads: Set<ArtifactKind> { [.factor, .mask] }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { true }

  public func pattern(after previous: SparsityPattern?) throws -> SparsityPattern? {
    switch previous {
    case .groups(let keep, let of):
      guard budget == .row else {
        throw EspalierError.usage(
          "budget: matrix moves weights from row to row, which \(keep):\(of) does not allow; use budget: row."
        )
      }
      guard moves == .single || patterns(keep, of) <= Self.mostPatterns else {
        throw EspalierError.usage(
          "a group of \(keep):\(of) has more than \(Self.mostPatterns) patterns; use moves: single.")
      }
      return previous
    case .rows(let sparsity), .matrix(let sparsity):
      guard moves == .single else {
        throw EspalierError.usage(
          "moves: group needs an N:M mask, but this one prunes \(sparsity) of every row.")
      }
      return budget == .matrix ? .matrix(sparsity: sparsity) : previous
    case nil: return nil
    }
  }

  /// Patterns of a group: `of` over `keep`, or more than are allowed.
  private func patterns(_ keep: Int, _ of: Int) -> Int {
    var count = 1
    for taken in 0..<min(keep, of - keep) {
      count = count * (of - taken) / (taken + 1)
      if count > Self.mostPatterns { break }
    }
    return count
  }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    // The Gram matrix is mapped; all of it is read again and again, so that it counts.
    let options = SwapOptions(moves: moves, budget: budget == .row ? .row : .matrix(floor: floor))
    return WorkingSet(
      weights: sizes.tensorBytes, factor: sizes.factorBytes,
      rows: 2 * matrix.rows * Mask.rowBytes(matrix.columns)
        + max(
          options.workingSet(
            rows: matrix.rows, columns: matrix.columns, pattern: sizes.pattern, rank: sizes.factorRank,
            holdsOut: holdOut > 0, threads: sizes.threads),
          Certificate.lossesWorkingSet(rows: matrix.rows, columns: matrix.columns, threads: sizes.threads)))
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    let columns = Double(matrix.columns)
    let isGrouped = if case .groups = sizes.pattern { true } else { false }
    // Measured on trained models: swaps of a row to its optimum, and the bytes that each of them moves, mostly two rows of G.
    let optimum = (isGrouped ? 0.11 : 0.12) * columns * (budget == .matrix ? 3 : 1)
    let swaps = maxSwaps.map { min(Double($0), optimum) } ?? optimum
    let traffic = (isGrouped ? 8 : 24) * columns * (holdOut > 0 ? 2 : 1)
    return Work(
      // Correlations at first, and the losses at the end by half a product.
      operations: matrix.gramOperations * (holdOut > 0 ? 2.5 : 1.5),
      memoryBytes: Double(matrix.rows) * swaps * traffic + matrix.weights * 64 + columns * columns * 4)
  }

  public func run(_ unit: UnitContext) throws -> JSON {
    let weight = try unit.weight()
    let factor = try unit.factor()
    let gram = try factor.requireGram()
    var mask = try MaskFile.read(unit.input(.mask, MaskFile.name))
    let (losses, details) =
      switch budget {
      case .row: try refineRows(unit, weight, gram, heldOut: holdOut > 0 ? factor.heldOut : nil, &mask)
      case .matrix: try refineMatrix(unit, weight, gram, &mask)
      }
    try MaskFile.write(mask, to: unit.folder + "/" + MaskFile.name)
    let certificate = try unit.carryCertificate(mask, weight, gram)
    weight.tensor.release()
    return .object(
      JSONObject(
        unit.matrixReport(mask.pattern) + [
          ("lossBefore", .number(losses.before)), ("lossAfter", .number(losses.after)),
        ] + details + certificate))
  }

  private typealias Refined = (
    losses: (before: Double, after: Double), details: [(key: String, value: JSON)]
  )

  private func refineRows(
    _ unit: UnitContext, _ weight: LinearWeight, _ gram: GramMatrix, heldOut: GramMatrix?, _ mask: inout Mask
  ) throws -> Refined {
    let options = SwapOptions(limit: maxSwaps, moves: moves, heldOut: heldOut)
    let outcome = try refineBySwaps(weight, gram: gram, mask: &mask, options: options, on: unit.device) {
      done, total in
      try unit.advance(done, of: total)
    }
    var details: [(key: String, value: JSON)] = [
      ("swaps", .integer(outcome.swaps)), ("mostSwapsOfARow", .integer(outcome.mostSwaps)),
      ("rowsAtLimit", .integer(outcome.rowsAtLimit)), ("evaluatedPairs", .integer(outcome.evaluatedPairs)),
      ("allPairs", .integer(outcome.allPairs)), ("drift", .number(outcome.drift)),
    ]
    if heldOut != nil {
      details += [
        ("heldOutBefore", .number(outcome.heldOutBefore)), ("heldOutAfter", .number(outcome.heldOutAfter)),
        ("rowsStoppedByHeldOut", .integer(outcome.rowsStoppedByHeldOut)),
      ]
    }
    return ((outcome.lossBefore, outcome.lossAfter), details)
  }

  private func refineMatrix(
    _ unit: UnitContext, _ weight: LinearWeight, _ gram: GramMatrix, _ mask: inout Mask
  ) throws -> Refined {
    let options = SwapOptions(limit: maxSwaps, budget: .matrix(floor: floor))
    let outcome = try refineAcrossRows(weight, gram: gram, mask: &mask, options: options, on: unit.device) {
      done, total in
      try unit.advance(done, of: total)
    }
    return (
      (outcome.lossBefore, outcome.lossAfter),
      [
        ("swaps", .integer(outcome.swaps)), ("mostSwapsOfARow", .integer(outcome.mostSwaps)),
        ("rowsAtLimit", .integer(outcome.rowsAtLimit)), ("moves", .integer(outcome.moves)),
        ("fewestKept", .integer(outcome.fewestKept)), ("mostKept", .integer(outcome.mostKept)),
        ("evaluatedPairs", .integer(outcome.evaluatedPairs)), ("allPairs", .integer(outcome.allPairs)),
        ("drift", .number(outcome.drift)),
      ]
    )
  }
}
