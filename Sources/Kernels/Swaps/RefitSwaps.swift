import CKernels
import EspalierCore

/// How masks are refined for the loss after the kept weights are fitted.
public struct RefitSwapOptions: Sendable {
  /// The most swaps of one row; nil goes on until none helps.
  public var limit: Int?
  /// The fit of the kept weights; its damping also counts while masks are chosen.
  public var fit: ReconstructOptions

  public init(limit: Int? = nil, fit: ReconstructOptions = ReconstructOptions()) {
    self.limit = limit
    self.fit = fit
  }

  /// Bytes that ``refineByRefitSwaps(_:gram:shift:mask:options:on:write:)`` takes, without the pages of the weight and the Gram matrix
  /// and without the mask.
  ///
  /// - Parameters:
  ///   - pattern: nil if it is not known; then the one that takes the most.
  ///   - rank: the rows of the factor of the Gram matrix; nil if it is whole.
  ///   - writing: bytes that `write` takes for some rows.
  public static func workingSet(
    rows: Int, columns: Int, pattern: SparsityPattern?, rank: Int?, threads: Int,
    writing: (_ rows: Int) -> Int
  ) -> Int {
    let block = min(RowBlock.mostRows, rows)
    let matrix = block * columns * 4
    let kept = pattern?.kept(ofColumns: columns) ?? columns
    let span = pattern?.span(ofColumns: columns) ?? columns
    let searching =
      matrix
      + min(threads, block) * RefitTableau.byteCount(columns: columns, span: span, mostKept: kept)
      + (rank == nil ? 0 : columns * columns * 4)
    let fitting = ReconstructOptions.workingSet(
      rows: rows, columns: columns, pattern: pattern, rank: rank, threads: threads, writing: writing)
    return columns * 8
      + max(
        RefitSystem.byteCount(columns: columns),
        matrix + max(RowBlock.byteCount(rows: rows, columns: columns) + searching, 2 * matrix + fitting))
  }

  /// Operations for the search in one row, about.
  public static func operations(columns: Int, pattern: SparsityPattern?) -> Double {
    let kept = Double(pattern?.kept(ofColumns: columns) ?? columns / 2)
    let channels = Double(
      RefitTableau.channels(columns: columns, span: pattern?.span(ofColumns: columns) ?? columns))
    // Small factors run at a third of the rate of a large product.
    let round =
      kept * kept * (kept / 3 + channels) + kept * channels * channels + channels * channels * channels
    return 3 * 2.5 * round
  }
}

/// What refining one matrix for the loss after the fit did.
public struct RefitSwapOutcome: Sendable {
  public var mask: Mask
  public var swaps = 0
  /// The most swaps of one row.
  public var mostSwaps = 0
  public var rowsAtLimit = 0
  /// Rows that took their first mask back, since the fit did not confirm the gain: G is singular to rounding there.
  public var rowsTakenBack = 0
  /// Of the first mask: the loss of the mask alone, and after a quick fit.
  public var lossBefore = 0.0
  public var fittedBefore = 0.0
  /// The last fit: its loss before is that of the last masks alone.
  public var fit = ReconstructOutcome()
}

/// How often the candidates of a row are chosen anew: the fourth time finds hardly anything.
private let mostRounds = 3
/// A swap must lower the loss by this share of the sum of `w_j^2 G_jj`: f32 knows it no better.
private let leastGain = 1e-6

/// Refines the mask by swaps that lower the loss after the kept weights are fitted, and fits them.
///
/// The loss is the damped one of ``reconstruct(_:gram:shift:mask:options:on:write:)``, with the damping of pruned weights added. Pruning u
/// and restoring p changes it by a closed form (`Sources/CKernels/include/refit.h`), which each swap maximises: over all pairs of a row or
/// group up to 128 columns, and over the pairs of the 64 kept and 64 pruned weights (96 each for 1536 columns, 128 for 2048 and more) that
/// cost least and gain most on their own beyond that. These are chosen anew after the swaps among them, three times at most. Rows do not
/// depend on each other, and counts stay exact.
///
/// - Parameters:
///   - weight: `rows x columns`, without a mask of its own.
///   - gram: `columns x columns`.
///   - shift: what the targets have beyond the outputs of the dense rows; nil if nothing.
///   - mask: the start, best a local optimum of ``refineBySwaps(_:gram:shift:mask:options:on:progress:)``; a budget for each row or group.
///   - write: takes the fitted weights, 0 where pruned, in blocks of rows, the first row first.
/// - Throws: what `write` throws.
public func refineByRefitSwaps(
  _ weight: LinearWeight, gram: GramMatrix, shift: TargetShift? = nil, mask: Mask,
  options: RefitSwapOptions = RefitSwapOptions(), on device: Device, write: (borrowing Matrix) throws -> Void
) throws -> RefitSwapOutcome {
  precondition(
    gram.columns == weight.columns && mask.rows == weight.rows && mask.columns == weight.columns
      && weight.mask == nil)
  let fit = FitSystem(gram, options.fit)
  let span = mask.pattern.span(ofColumns: weight.columns)
  let system = RefitSystem(gram, damping: fit.damping, span: span, on: device)
  var outcome = RefitSwapOutcome(mask: mask)
  for rows in parts(of: weight.rows, size: RowBlock.mostRows) {
    let shifts = RowShifts(shift, rows, of: weight, on: device)
    var block = RefitBlock(RowBlock(weight, mask, rows: rows, on: device), fit, system, shifts, on: device)
    block.exchange(system, limit: options.limit, on: device)
    try write(block.finish(weight, mask, fit, shifts, limit: options.limit, &outcome, on: device))
  }
  return outcome
}

/// A block of rows while their masks are chosen.
private struct RefitBlock: ~Copyable {
  let rows: Range<Int>
  let columns: Int
  /// The fitted weights, and the masks.
  var fitted: RowBlock
  /// The right sides `(G + ridge) w + s`.
  var sides: Matrix
  /// What a swap must gain, and the damped loss after the fit of the first mask, or more.
  let least: [Double]
  let start: [FitState]
  var swaps: [Int]

  init(
    _ block: consuming RowBlock, _ fit: FitSystem, _ system: RefitSystem, _ shifts: borrowing RowShifts,
    on device: Device
  ) {
    rows = block.rows
    columns = block.columns
    swaps = [Int](repeating: 0, count: rows.count)
    var sides = Matrix(unfilled: rows.count, columns: columns)
    system.gram.multiply(block.weights, rows: rows.count, into: &sides, on: device)
    shifts.add(to: &sides)
    do {
      let lines = sides.mutableRowSpans
      let weights = block.weights.rowSpans
      device.forEach(rows.count) { row in
        var line = lines[row]
        let w = weights[row]
        for column in line.indices { line[column] += system.ridge[column] * w[column] }
      }
    }
    self.sides = sides
    least = block.scales(system.gram.diagonal).map { leastGain * $0 }
    // A few steps tell which weights are candidates.
    var quick = fit
    quick.expectedSteps = 0
    quick.options.limit = 8
    start = EspalierKernels.fit(&block, quick, shifts, on: device)
    fitted = block
  }

  /// Makes swaps in all rows.
  mutating func exchange(_ system: RefitSystem, limit: Int?, on device: Device) {
    var open = Array(0..<rows.count)
    for _ in 0..<(system.searchesAll ? 1 : mostRounds) {
      let live = open
      let outcomes = Self.exchange(
        live, &fitted, sides, system, limits: live.map { row in limit.map { $0 - swaps[row] } ?? .max },
        least: least, on: device)
      for (index, row) in live.enumerated() { swaps[row] += Int(outcomes[index]) }
      open = live.indices.filter { outcomes[$0] > 0 && swaps[live[$0]] < limit ?? .max }.map { live[$0] }
      if open.isEmpty { break }
    }
  }

  /// One round of swaps in some rows; returns how many each made.
  private static func exchange(
    _ live: [Int], _ fitted: inout RowBlock, _ sides: borrowing Matrix, _ system: RefitSystem, limits: [Int],
    least: [Double], on device: Device
  ) -> Buffer<UInt64> {
    let columns = fitted.columns
    // Row k of these belongs to the k-th open row.
    var products = Matrix(unfilled: live.count, columns: columns)
    multiply(live, fitted, system, into: &products, on: device)
    var outcomes = Buffer<UInt64>(count: live.count)
    let mostKept =
      live.map { row in (0..<columns).reduce(0) { $0 + Int(fitted.kept[row * columns + $1]) } }.max() ?? 0
    do {
      let spans = fitted.spans
      let rests = products.mutableRowSpans
      let found = outcomes.mutableRowSpans(columns: 1)
      let sides = sides.rowSpans
      system.gram.withElements(on: device) { gram in
        device.forEach(
          live.count, scratch: { RefitTableau(columns: columns, span: system.span, mostKept: mostKept) }
        ) { tableau, index in
          let row = live[index]
          var v = spans.weights[row]
          var kept = spans.kept[row]
          var rest = rests[index]
          var found = found[index]
          let b = sides[row]
          for column in rest.indices {
            rest[column] = b[column] - rest[column] - system.ridge[column] * v[column]
          }
          let outcome = tableau.refine(
            system, gram.span, b: b, rest: rest.span, limit: limits[index], least: least[row], &v, &kept)
          found[0] = outcome?.moves ?? 0
        }
      }
    }
    return outcomes
  }

  /// `v G` of some rows.
  private static func multiply(
    _ live: [Int], _ fitted: borrowing RowBlock, _ system: RefitSystem, into products: inout Matrix,
    on device: Device
  ) {
    if live.count == fitted.rows.count {
      return system.gram.multiply(fitted.weights, rows: live.count, into: &products, on: device)
    }
    var some = Matrix(unfilled: live.count, columns: fitted.columns)
    do {
      let lines = some.mutableRowSpans
      for (index, row) in live.enumerated() {
        var line = lines[index]
        line.copy(fitted.weights.rowSpans[row])
      }
    }
    system.gram.multiply(some, rows: live.count, into: &products, on: device)
  }

  /// Fits the weights of the masks, and takes back those that are no better.
  consuming func finish(
    _ weight: LinearWeight, _ mask: Mask, _ fit: FitSystem, _ shifts: borrowing RowShifts,
    limit: Int?, _ outcome: inout RefitSwapOutcome, on device: Device
  ) -> Matrix {
    for row in swaps.indices {
      outcome.swaps += swaps[row]
      outcome.mostSwaps = max(outcome.mostSwaps, swaps[row])
      outcome.rowsAtLimit += swaps[row] >= limit ?? .max ? 1 : 0
      outcome.lossBefore += start[row].before
      outcome.fittedBefore += start[row].after
    }
    fitted.weights = weight.matrix(rows)
    var states = EspalierKernels.fit(&fitted, fit, shifts, on: device)
    let first = RowBlock(weight, mask, rows: rows, on: device)
    let worse = states.indices.filter { row in
      swaps[row] > 0
        && damped(states[row], first, fitted, row, fit.damping)
          > damped(start[row], first, first, row, fit.damping)
    }
    for row in worse {
      outcome.rowsTakenBack += 1
      var single = RowBlock(weight, mask, rows: rows.lowerBound + row..<rows.lowerBound + row + 1, on: device)
      let shift = shifts.row(row)
      states[row] = EspalierKernels.fit(&single, fit, shift, on: device)[0]
      for column in 0..<columns {
        fitted.weights[row, column] = single.weights[0, column]
        fitted.kept[row * columns + column] = single.kept[column]
      }
    }
    outcome.fit.add(states)
    fitted.storeKept(into: &outcome.mask)
    return fitted.takeWeights()
  }
}

/// The damped loss of a row after a fit, with the damping of what a mask prunes.
private func damped(
  _ state: FitState, _ dense: borrowing RowBlock, _ masked: borrowing RowBlock, _ row: Int, _ damping: [Float]
) -> Double {
  var sum = state.before - state.gain
  for column in 0..<dense.columns where masked.kept[row * dense.columns + column] == 0 {
    let w = Double(dense.weights[row, column])
    sum += Double(damping[column]) * w * w
  }
  return sum
}
