import CKernels
import EspalierCore

/// How masks are refined for the loss after the kept weights are fitted.
public struct RefitSwapOptions: Sendable {
  /// The most swaps of one row; nil goes on until none helps.
  public var limit: Int?
  /// Whether every row keeps its number of weights; swaps inside rows are followed by moves between rows otherwise.
  public var budget: SwapOptions.Budget
  /// The fit of the kept weights; its damping also counts while masks are chosen.
  public var fit: ReconstructOptions

  public init(
    limit: Int? = nil, budget: SwapOptions.Budget = .row, fit: ReconstructOptions = ReconstructOptions()
  ) {
    self.limit = limit
    self.budget = budget
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
    let kept: Int
    switch pattern {
    case .rows, .groups: kept = pattern?.kept(ofColumns: columns) ?? columns
    // A row may keep any number.
    case .matrix, nil: kept = columns
    }
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
public struct RefitSwapOutcome: BlockOutcome {
  public var swaps = 0
  /// The most swaps of one row.
  public var mostSwaps = 0
  public var rowsAtLimit = 0
  /// Kept weights that moved from one row to another.
  public var moves = 0
  /// Rows that took their first mask back, since the fit did not confirm the gain: G is singular to rounding there.
  public var rowsTakenBack = 0
  /// Of the first mask: the loss of the mask alone, and after a quick fit.
  public var lossBefore = 0.0
  public var fittedBefore = 0.0
  /// The last fit: its loss before is that of the last masks alone.
  public var fit = ReconstructOutcome()

  public init() {}

  public mutating func add(_ next: RefitSwapOutcome) {
    swaps += next.swaps
    mostSwaps = max(mostSwaps, next.mostSwaps)
    rowsAtLimit += next.rowsAtLimit
    moves += next.moves
    rowsTakenBack += next.rowsTakenBack
    lossBefore += next.lossBefore
    fittedBefore += next.fittedBefore
    fit.add(next.fit)
  }
}

/// How often the candidates of a row are chosen at most: anew after a round that gained this share of all.
private let mostRounds = 8
private let worthwhile = 0.05
/// A swap must lower the loss by this share of the sum of `w_j^2 G_jj`: f32 knows it no better.
private let leastGain = 1e-6

/// How often moves between rows are looked for at most.
private let mostPasses = 16

/// Refines the mask by swaps that lower the loss after the kept weights are fitted, and fits them.
///
/// The loss is the damped one of ``reconstruct(_:gram:shift:mask:options:on:write:)``, with the damping of pruned weights added. Pruning u
/// and restoring p changes it by a closed form (`Sources/CKernels/include/refit.h`), which each swap maximises: over all pairs of a row or
/// group up to 128 columns, and over the pairs of the 64 kept and 64 pruned weights (96 each for 1536 columns, 128 for 2048 and more) that
/// cost least and gain most on their own beyond that. These are chosen anew after the swaps among them, until that gains little. Rows do not
/// depend on each other, and counts stay exact.
///
/// With a budget for the matrix, kept weights then move between rows: every row lists what it costs to prune one weight more, and another
/// one, and so on, and what it gains to restore them; the cheapest of the first and the best of the second are taken together while both
/// lower the loss. Rows that changed are swapped again, until nothing moves. A weight in one row does not interact with one in another, so
/// that each of these steps is exact, too.
///
/// - Parameters:
///   - weight: `rows x columns`, without a mask of its own.
///   - gram: `columns x columns`.
///   - shift: what the targets have beyond the outputs of the dense rows; nil if nothing.
///   - mask: the start, best a local optimum of ``refineBySwaps(_:gram:shift:mask:options:on:progress:)``; with a budget for the matrix its
///     pattern becomes ``SparsityPattern/matrix(sparsity:)``.
///   - rows: those that are refined, whole blocks of them; nil for all, and with a budget for the matrix.
///   - write: takes the fitted weights, 0 where pruned, in blocks of rows, the first row first.
/// - Throws: what `write` throws.
public func refineByRefitSwaps(
  _ weight: LinearWeight, gram: GramMatrix, shift: TargetShift? = nil, mask: Mask,
  options: RefitSwapOptions = RefitSwapOptions(), rows: Range<Int>? = nil, on device: Device,
  write: (borrowing Matrix) throws -> Void
) throws -> FoundMask<RefitSwapOutcome> {
  precondition(
    gram.columns == weight.columns && mask.rows == weight.rows && mask.columns == weight.columns
      && weight.mask == nil)
  let fit = FitSystem(gram, options.fit)
  let span = mask.pattern.span(ofColumns: weight.columns)
  let system = RefitSystem(gram, damping: fit.damping, span: span, on: device)
  if case .matrix(let floor) = options.budget {
    let problem = RefitMatrix(weight: weight, fit: fit, system: system, shift: shift, device: device)
    return try problem.refine(mask, floor: floor, limit: options.limit, write)
  }
  var found = FoundMask<RefitSwapOutcome>(mask)
  for rows in weight.blocks(of: rows) {
    var outcome = RefitSwapOutcome()
    let shifts = RowShifts(shift, rows, of: weight, on: device)
    var block = RefitBlock(RowBlock(weight, mask, rows: rows, on: device), fit, system, shifts, on: device)
    block.exchange(system, limit: options.limit, on: device)
    outcome.add(block.swaps, limit: options.limit)
    outcome.add(block.start)
    let weights = block.finish(weight, mask, fit, shifts, into: &found.mask, &outcome, on: device)
    found.outcomes.blocks.append(outcome)
    try write(weights)
  }
  return found
}

extension RefitSwapOutcome {
  fileprivate mutating func add(_ rows: [Int], limit: Int?) {
    for row in rows {
      swaps += row
      mostSwaps = max(mostSwaps, row)
      rowsAtLimit += row >= limit ?? .max ? 1 : 0
    }
  }

  fileprivate mutating func add(_ start: [FitState]) {
    for row in start {
      lossBefore += row.before
      fittedBefore += row.after
    }
  }
}

/// A matrix while weights move between its rows.
private struct RefitMatrix: Sendable {
  let weight: LinearWeight
  let fit: FitSystem
  let system: RefitSystem
  let shift: TargetShift?
  let device: Device

  func refine(
    _ start: Mask, floor: Double, limit: Int?, _ write: (borrowing Matrix) throws -> Void
  ) throws -> FoundMask<RefitSwapOutcome> {
    let pattern: SparsityPattern
    switch start.pattern {
    case .rows(let sparsity), .matrix(let sparsity): pattern = .matrix(sparsity: sparsity)
    case .groups: preconditionFailure("groups cannot give weights to other rows")
    }
    var found = FoundMask<RefitSwapOutcome>(start.with(pattern))
    var outcome = RefitSwapOutcome()
    let floors = (0..<start.rows).map { Int((floor * Double(start.keptCount(row: $0))).rounded(.up)) }
    var prices = [RowPrices](repeating: RowPrices(), count: start.rows)
    var swaps = [Int](repeating: 0, count: start.rows)
    var stale = [Bool](repeating: true, count: start.rows)
    let blocks = parts(of: start.rows, size: RowBlock.mostRows)
    var least = 0.0
    for pass in 0..<mostPasses {
      for rows in blocks where rows.contains(where: { stale[$0] }) {
        let shifts = RowShifts(shift, rows, of: weight, on: device)
        var block = RefitBlock(
          RowBlock(weight, found.mask, rows: rows, on: device), fit, system, shifts, on: device)
        if pass == 0 {
          outcome.add(block.start)
          least += block.least.reduce(0, +) / Double(start.rows)
        }
        block.swaps = Array(swaps[rows])
        let open = rows.filter { stale[$0] }.map { $0 - rows.lowerBound }
        block.exchange(system, rows: open, limit: limit, on: device)
        for (row, price) in zip(open, block.prices(open, system, on: device)) {
          prices[rows.lowerBound + row] = price
        }
        swaps.replaceSubrange(rows, with: block.swaps)
        block.fitted.storeKept(into: &found.mask)
      }
      let moves = RowPrices.match(prices, found.mask, floors: floors, least: least)
      if moves.isEmpty { break }
      stale = [Bool](repeating: false, count: start.rows)
      for (row, column) in moves {
        found.mask[row, column].toggle()
        stale[row] = true
      }
      outcome.moves += moves.count / 2
    }
    outcome.add(swaps, limit: limit)
    outcome.fit = try reconstruct(
      weight, gram: system.gram, shift: shift, mask: found.mask, options: fit.options, on: device,
      write: write
    ).total
    found.outcomes.blocks = [outcome]
    return found
  }
}

/// What it costs a row to prune further weights, the cheapest first, and what it gains by restoring some, the best first: each after those
/// before it.
struct RowPrices: Sendable {
  /// How many of each are listed.
  static let count = 8

  var leaving: [(channel: Int, change: Double)] = []
  var joining: [(channel: Int, change: Double)] = []

  /// The weights to prune and to restore so that the loss falls most, as many of each; of a row only one kind.
  ///
  /// - Parameters:
  ///   - floors: the fewest weights that each row keeps.
  ///   - least: what a pair must gain.
  static func match(
    _ rows: [RowPrices], _ mask: Mask, floors: [Int], least: Double
  ) -> [(row: Int, channel: Int)] {
    struct Offer {
      let row: Int
      let channel: Int
      let change: Double
    }
    // A change counts as no better than the one before it, so that those of a row are taken in their order.
    func offers(_ list: (RowPrices) -> [(channel: Int, change: Double)]) -> [Offer] {
      rows.enumerated().flatMap { row, prices in
        var worst = -Double.infinity
        return list(prices).map {
          worst = max(worst, $0.change)
          return Offer(row: row, channel: $0.channel, change: worst)
        }
      }
      // A stable order: of equal ones the lower row first.
      .enumerated().sorted { ($0.element.change, $0.offset) < ($1.element.change, $1.offset) }
      .map { $0.element }
    }
    let leaving = offers(\.leaving)
    let joining = offers(\.joining)
    var gives = Set<Int>()
    var takes = Set<Int>()
    var left = (0..<rows.count).map { mask.keptCount(row: $0) - floors[$0] }
    var moves: [(Int, Int)] = []
    var (from, to) = (0, 0)
    while true {
      while from < leaving.count, takes.contains(leaving[from].row) || left[leaving[from].row] <= 0 {
        from += 1
      }
      while to < joining.count, gives.contains(joining[to].row) { to += 1 }
      guard from < leaving.count, to < joining.count else { return moves }
      let (giving, taking) = (leaving[from], joining[to])
      guard giving.change + taking.change < -least else { return moves }
      if giving.row == taking.row {
        // Inside of a row that would be a swap, and none is left. It takes part with the offer that is harder to replace.
        let otherTo = to + 1 < joining.count ? joining[to + 1].change - taking.change : .infinity
        let otherFrom = from + 1 < leaving.count ? leaving[from + 1].change - giving.change : .infinity
        if otherTo <= otherFrom { to += 1 } else { from += 1 }
        continue
      }
      moves += [(giving.row, giving.channel), (taking.row, taking.channel)]
      gives.insert(giving.row)
      takes.insert(taking.row)
      left[giving.row] -= 1
      from += 1
      to += 1
    }
  }
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

  /// Makes swaps in all rows, or in some.
  mutating func exchange(
    _ system: RefitSystem, rows some: [Int]? = nil, limit: Int?, on device: Device
  ) {
    var open = (some ?? Array(0..<rows.count)).filter { swaps[$0] < limit ?? .max }
    if open.isEmpty { return }
    var gains = [Double](repeating: 0, count: rows.count)
    for _ in 0..<(system.searchesAll ? 1 : mostRounds) {
      let live = open
      let outcomes = Self.exchange(
        live, &fitted, sides, system, limits: live.map { row in limit.map { $0 - swaps[row] } ?? .max },
        least: least, on: device)
      for (index, row) in live.enumerated() {
        swaps[row] += Int(outcomes[index].moves)
        gains[row] += outcomes[index].gain
      }
      open =
        live.indices.filter {
          outcomes[$0].gain > worthwhile * gains[live[$0]] && swaps[live[$0]] < limit ?? .max
        }
        .map { live[$0] }
      if open.isEmpty { break }
    }
  }

  /// One round of swaps in some rows.
  private static func exchange(
    _ live: [Int], _ fitted: inout RowBlock, _ sides: borrowing Matrix, _ system: RefitSystem, limits: [Int],
    least: [Double], on device: Device
  ) -> Buffer<espalier_refit_outcome> {
    let columns = fitted.columns
    // Row k of these belongs to the k-th open row.
    let rests = rests(live, fitted, sides, system, on: device)
    var outcomes = Buffer<espalier_refit_outcome>(count: live.count)
    let mostKept = mostKept(live, fitted)
    do {
      let spans = fitted.spans
      let rests = rests.rowSpans
      let found = outcomes.mutableRowSpans(columns: 1)
      let sides = sides.rowSpans
      system.gram.withElements(on: device) { gram in
        device.forEach(
          live.count, scratch: { RefitTableau(columns: columns, span: system.span, mostKept: mostKept) }
        ) { tableau, index in
          let row = live[index]
          var v = spans.weights[row]
          var kept = spans.kept[row]
          var found = found[index]
          let outcome = tableau.refine(
            system, gram.span, b: sides[row], rest: rests[index], limit: limits[index], least: least[row], &v,
            &kept)
          found[0] = outcome ?? espalier_refit_outcome()
        }
      }
    }
    return outcomes
  }

  /// What further weights of some rows cost and gain.
  mutating func prices(_ live: [Int], _ system: RefitSystem, on device: Device) -> [RowPrices] {
    Self.prices(live, &fitted, sides, system, on: device)
  }

  private static func prices(
    _ live: [Int], _ fitted: inout RowBlock, _ sides: borrowing Matrix, _ system: RefitSystem,
    on device: Device
  ) -> [RowPrices] {
    let columns = fitted.columns
    let rests = rests(live, fitted, sides, system, on: device)
    let count = RowPrices.count
    var found = Buffer<espalier_refit_price>(count: live.count * 2 * count)
    var counts = Buffer<Int>(count: live.count * 2)
    let mostKept = mostKept(live, fitted)
    do {
      let spans = fitted.spans
      let rests = rests.rowSpans
      let found = found.mutableRowSpans(columns: 2 * count)
      let counts = counts.mutableRowSpans(columns: 2)
      let sides = sides.rowSpans
      system.gram.withElements(on: device) { gram in
        device.forEach(
          live.count, scratch: { RefitTableau(columns: columns, span: system.span, mostKept: mostKept) }
        ) { tableau, index in
          let row = live[index]
          let v = spans.weights[row]
          let kept = spans.kept[row]
          var found = found[index]
          var counts = counts[index]
          for side in 0..<2 {
            var prices = found.part(side * count..<(side + 1) * count)
            counts[side] = tableau.prices(
              system, gram.span, b: sides[row], rest: rests[index], v.span, kept.span, restoring: side == 1,
              &prices)
          }
        }
      }
    }
    return live.indices.map { index in
      func list(_ side: Int) -> [(channel: Int, change: Double)] {
        (0..<counts[2 * index + side]).map {
          let price = found[(2 * index + side) * count + $0]
          return (Int(price.channel), Double(price.change))
        }
      }
      return RowPrices(leaving: list(0), joining: list(1))
    }
  }

  /// `b - v (G + ridge)` of some rows.
  private static func rests(
    _ live: [Int], _ fitted: borrowing RowBlock, _ sides: borrowing Matrix, _ system: RefitSystem,
    on device: Device
  ) -> Matrix {
    var rests = Matrix(unfilled: live.count, columns: fitted.columns)
    if live.count == fitted.rows.count {
      system.gram.multiply(fitted.weights, rows: live.count, into: &rests, on: device)
    } else {
      var some = Matrix(unfilled: live.count, columns: fitted.columns)
      gatherRows(fitted.weights, live.map { Int32($0) }, into: &some, on: device)
      system.gram.multiply(some, rows: live.count, into: &rests, on: device)
    }
    do {
      let lines = rests.mutableRowSpans
      let (weights, sides) = (fitted.weights.rowSpans, sides.rowSpans)
      device.forEach(live.count) { index in
        var line = lines[index]
        let (v, b) = (weights[live[index]], sides[live[index]])
        for column in line.indices {
          line[column] = b[column] - line[column] - system.ridge[column] * v[column]
        }
      }
    }
    return rests
  }

  private static func mostKept(_ live: [Int], _ fitted: borrowing RowBlock) -> Int {
    let columns = fitted.columns
    return live.map { row in (0..<columns).reduce(0) { $0 + Int(fitted.kept[row * columns + $1]) } }.max()
      ?? 0
  }

  /// Fits the weights of the masks, and takes back those that are no better.
  consuming func finish(
    _ weight: LinearWeight, _ mask: Mask, _ fit: FitSystem, _ shifts: borrowing RowShifts,
    into newMask: inout Mask, _ outcome: inout RefitSwapOutcome, on device: Device
  ) -> Matrix {
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
    fitted.storeKept(into: &newMask)
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
