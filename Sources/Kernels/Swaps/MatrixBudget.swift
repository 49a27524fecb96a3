import CKernels
import EspalierCore

/// What refining a matrix with one budget for all of its rows did.
public struct MatrixBudgetOutcome: Sendable {
  /// Sum over the rows of `((1-m).w)^T G ((1-m).w)`; both from fresh correlations.
  public var lossBefore = 0.0
  public var lossAfter = 0.0
  /// Swaps inside rows, and the most of one row.
  public var swaps = 0
  public var mostSwaps = 0
  /// Rows that stopped at the limit of swaps and not at a local optimum.
  public var rowsAtLimit = 0
  /// Kept weights that moved from one row to another.
  public var moves = 0
  /// The fewest and the most weights that a row keeps.
  public var fewestKept = 0
  public var mostKept = 0
  /// The largest difference between the loss that was followed move by move and that of fresh correlations, as a share
  /// of the loss before.
  public var drift = 0.0
  /// Pairs within rows whose change in loss was computed, and all pairs that there were to choose from.
  public var evaluatedPairs = 0
  public var allPairs = 0
}

/// Rounds of moves between two computations of all correlations.
private let mostRounds = 4

/// Refines the mask by swaps inside rows and by moves of kept weights from row to row, until neither lowers the loss.
///
/// Pruning u in one row and restoring p in another changes the loss by `a_u + b_p`, `a_u = 2 w_u c_u + w_u^2 G_uu` and
/// `b_p = -2 w_p c_p + w_p^2 G_pp` with the correlations c of their rows: there is no term of both. First each row goes to
/// its local optimum by swaps; then, again and again, the best move of all is made, and its two rows go to their local
/// optimum. Of equal moves the lower row that gives, its lower u, the lower row that takes, its lower p goes first. The
/// matrix keeps exactly as many weights as before.
///
/// Memory holds the correlations of all rows, `rows x columns` of f32.
///
/// - Parameters:
///   - weight: `rows x columns`, without a mask of its own.
///   - gram: `columns x columns`.
///   - shift: what the targets have beyond the outputs of the dense rows; nil if nothing. It takes `rows x columns` of f32 more.
///   - mask: of a budget for each row or for the matrix; its pattern becomes ``SparsityPattern/matrix(sparsity:)``.
///   - options: its budget is ``SwapOptions/Budget/matrix(floor:)``; the limit is that of swaps in one row, moves have
///     none. Moves are of single weights, without held-out inputs.
///   - progress: called now and then with the rows that were searched, and all rows.
/// - Throws: what `progress` throws; the mask stays what it was.
public func refineAcrossRows(
  _ weight: LinearWeight, gram: GramMatrix, shift: TargetShift? = nil, mask: inout Mask, options: SwapOptions,
  on device: Device,
  progress: (_ rows: Int, _ of: Int) throws -> Void
) rethrows -> MatrixBudgetOutcome {
  precondition(
    gram.columns == weight.columns && mask.rows == weight.rows && mask.columns == weight.columns
      && weight.mask == nil)
  guard case .matrix(let floor) = options.budget else {
    preconditionFailure("the budget is not the matrix's")
  }
  precondition(options.moves == .single && options.heldOut == nil && (0...1).contains(floor))
  let pattern: SparsityPattern
  switch mask.pattern {
  case .rows(let sparsity), .matrix(let sparsity): pattern = .matrix(sparsity: sparsity)
  case .groups: preconditionFailure("groups cannot give weights to other rows")
  }
  let rows = BudgetRows(
    weight: weight, gram: gram, shift: shift, bounds: ChannelBounds(gram, on: device), limit: options.limit,
    device: device)
  var matrix = BudgetMatrix(rows, mask: mask, floor: floor)
  var outcome = MatrixBudgetOutcome()
  try matrix.optimizeAll(progress)
  outcome.lossBefore = matrix.sum(\.fresh)
  for _ in 0..<mostRounds {
    let moves = try matrix.moveWhileItHelps(progress)
    if moves == 0 { break }
    outcome.moves += moves
    let followed = matrix.sum(\.loss)
    try matrix.optimizeAll(progress)
    let scale = shift == nil ? outcome.lossBefore : matrix.sum(\.scale)
    outcome.drift = max(
      outcome.drift, abs(followed - matrix.sum(\.fresh)) / max(scale, .leastNonzeroMagnitude))
  }
  outcome.lossAfter = matrix.sum(\.loss)
  let states = (0..<weight.rows).map { matrix.states[$0] }
  for state in states {
    outcome.swaps += state.swaps
    outcome.mostSwaps = max(outcome.mostSwaps, state.swaps)
    outcome.rowsAtLimit += state.swaps >= options.limit ?? .max ? 1 : 0
    outcome.evaluatedPairs += state.evaluated
    outcome.allPairs += state.pairs
  }
  outcome.fewestKept = states.map(\.kept).min() ?? 0
  outcome.mostKept = states.map(\.kept).max() ?? 0
  mask = matrix.mask.with(pattern)
  return outcome
}

/// Bytes that ``refineAcrossRows(_:gram:mask:options:on:progress:)`` takes.
func matrixBudgetWorkingSet(rows: Int, columns: Int, rank: Int?, threads: Int) -> Int {
  let product = RowBlock.prunedByteCount(rows: rows, columns: columns)
  let making = max(
    RowBlock.byteCount(rows: rows, columns: columns),
    GramMatrix.productByteCount(rows: min(RowBlock.mostRows, rows), rank: rank))
  return rows * (columns * 4 + MemoryLayout<BudgetState>.stride)
    + max(
      ChannelBounds.workingSet(columns: columns, rank: rank, threads: threads),
      product + making, min(max(2, threads), max(2, rows)) * BudgetScratch.byteCount(columns: columns))
}

/// One row of a matrix, at a local optimum of swaps.
private struct BudgetState: Sendable {
  var loss = 0.0
  /// The loss by the correlations that it was given, before any swap.
  var fresh = 0.0
  /// What the least gain is a share of if the target has a shift, else 0.
  var scale = 0.0
  /// Weights that it keeps, and must keep at least.
  var kept: Int
  let floor: Int
  var swaps = 0
  var evaluated = 0
  var pairs = 0
  /// The cheapest weights to prune and to restore.
  var ends = espalier_row_ends()

  /// What it costs to prune one weight; infinite if none may be.
  var prune: Double { kept > floor ? ends.prune : .infinity }
}

/// What is the same for all rows of a matrix.
private struct BudgetRows: Sendable {
  let weight: LinearWeight
  let gram: GramMatrix
  let shift: TargetShift?
  let bounds: ChannelBounds
  let limit: Int?
  let device: Device
}

/// What moves between the rows of a matrix change.
private struct BudgetMatrix: ~Copyable {
  let rows: BudgetRows
  var mask: Mask
  var correlations: Matrix
  /// The shifts of all targets; no rows if there are none.
  var shifts: Matrix
  var states: Buffer<BudgetState>

  init(_ rows: BudgetRows, mask: Mask, floor: Double) {
    self.rows = rows
    self.mask = mask
    correlations = Matrix(rows: mask.rows, columns: mask.columns)
    shifts = Matrix(rows: rows.shift == nil ? 0 : mask.rows, columns: mask.columns)
    states = Buffer(count: mask.rows)
    for row in 0..<mask.rows {
      let kept = mask.keptCount(row: row)
      states[row] = BudgetState(kept: kept, floor: Int((floor * Double(kept)).rounded(.up)))
    }
  }

  func sum(_ value: (BudgetState) -> Double) -> Double {
    (0..<states.count).reduce(0) { $0 + value(states[$1]) }
  }

  /// Computes all correlations from the masks, and brings each row to its local optimum.
  mutating func optimizeAll(_ progress: (Int, Int) throws -> Void) rethrows {
    let (rows, columns) = (rows, mask.columns)
    for block in parts(of: mask.rows, size: RowBlock.mostRows) {
      do {
        let pruned = RowBlock(rows.weight, mask, rows: block, on: rows.device).prunedPart(on: rows.device)
        rows.gram.multiply(
          pruned, rows: block.count, into: &correlations, at: block.lowerBound, on: rows.device)
      }
      if shifts.rows > 0 {
        let found = RowShifts(rows.shift, block, of: rows.weight, on: rows.device)
        found.add(to: &correlations, at: block.lowerBound)
        var all = shifts.mutableRowSpans[block]
        all.copy(found.values.elements.span)
      }
      do {
        let spans = Spans(&self)
        rows.gram.withKernel { gram in
          rows.device.forEach(block.count, scratch: { BudgetScratch(rows: 1, columns: columns) }) {
            scratch, index in
            spans.optimize(
              block.lowerBound + index, flipping: nil, rows, gram, BudgetScratch.Spans(&scratch), 0)
          }
        }
      }
      try progress(block.upperBound, mask.rows)
    }
  }

  /// Makes the best move between rows until none lowers the loss; returns how many were made.
  mutating func moveWhileItHelps(_ progress: (Int, Int) throws -> Void) rethrows -> Int {
    let count = mask.rows
    var loss = sum(\.loss)
    let scale = shifts.rows == 0 ? nil : sum(\.scale)
    // More moves than kept weights could only be rounding errors of the correlations that go round in circles.
    let most = (0..<count).reduce(0) { $0 + states[$1].kept }
    var prune = Tournament((0..<count).map { states[$0].prune })
    var restore = Tournament((0..<count).map { states[$0].ends.restore })
    var scratch = BudgetScratch(rows: 2, columns: mask.columns)
    var moves = 0
    while moves < most, let move = bestMove(prune, restore), move.change < -1e-9 * (scale ?? abs(loss)) {
      let pair = [move.from, move.to]
      for row in pair { loss -= states[row].loss }
      optimize(pair, flipping: [Int(states[move.from].ends.u), Int(states[move.to].ends.p)], in: &scratch)
      for row in pair {
        prune[row] = states[row].prune
        restore[row] = states[row].ends.restore
        loss += states[row].loss
      }
      moves += 1
      if moves % 256 == 0 { try progress(count, count) }
    }
    return moves
  }

  /// Prunes or restores one weight of each of these rows, and brings them to their local optimum.
  private mutating func optimize(_ pair: [Int], flipping flipped: [Int], in scratch: inout BudgetScratch) {
    let rows = rows
    let spans = Spans(&self)
    let scratch = BudgetScratch.Spans(&scratch)
    rows.gram.withKernel { gram in
      rows.device.forEach(pair.count) {
        spans.optimize(pair[$0], flipping: flipped[$0], rows, gram, scratch, $0)
      }
    }
  }

  /// The rows of all of it, for threads that each have rows of their own.
  struct Spans: ~Escapable, Sendable {
    let bits: MutableRowSpans<UInt8>
    let correlations: MutableRowSpans<Float>
    let shifts: MutableRowSpans<Float>
    let states: MutableRowSpans<BudgetState>

    @_lifetime(&matrix)
    init(_ matrix: inout BudgetMatrix) {
      // They are parts of the matrix that do not overlap.
      bits = _overrideLifetime(matrix.mask.mutableRowSpans, copying: ())
      correlations = _overrideLifetime(matrix.correlations.mutableRowSpans, copying: ())
      shifts = _overrideLifetime(matrix.shifts.mutableRowSpans, copying: ())
      states = _overrideLifetime(matrix.states.mutableRowSpans(columns: 1), copying: ())
    }
  }
}

/// The best move from one row to another, given the cheapest weight of each to prune and to restore.
private func bestMove(
  _ prune: Tournament, _ restore: Tournament
) -> (from: Int, to: Int, change: Double)? {
  func move(_ from: Int?, _ to: Int?) -> (from: Int, to: Int, change: Double)? {
    guard let from, let to else { return nil }
    return (from, to, prune[from] + restore[to])
  }
  let (from, to) = (prune.least(), restore.least())
  guard from == to, let row = from else { return move(from, to) }
  let giving = move(row, restore.least(except: row))
  let taking = move(prune.least(except: row), row)
  guard let giving, let taking else { return giving ?? taking }
  if giving.change != taking.change { return giving.change < taking.change ? giving : taking }
  return giving.from < taking.from ? giving : taking
}

/// What the search of some rows needs.
private struct BudgetScratch: ~Copyable {
  private let columns: Int
  private var weights: Buffer<Float>
  /// Rows of G that are made from a factor.
  private var madeRows: Buffer<Float>
  private var correlations: Buffer<Double>
  /// The masks of the rows, and those of the search.
  private var kept: Buffer<UInt8>
  private var searched: Buffer<UInt8>
  private var search: Buffer<UInt8>
  private var starts: Buffer<espalier_swap_start>
  private var outcomes: Buffer<espalier_swap_outcome>

  init(rows: Int, columns: Int) {
    self.columns = columns
    weights = Buffer(count: rows * columns)
    madeRows = Buffer(count: rows * columns)
    correlations = Buffer(count: rows * columns)
    kept = Buffer(count: rows * columns)
    searched = Buffer(count: rows * columns)
    search = Buffer(count: rows * espalier_swap_scratch(columns, columns, 0))
    starts = Buffer(count: rows)
    outcomes = Buffer(count: rows)
  }

  /// Bytes for one row.
  static func byteCount(columns: Int) -> Int {
    columns * 18 + espalier_swap_scratch(columns, columns, 0) + MemoryLayout<espalier_swap_start>.stride
      + MemoryLayout<espalier_swap_outcome>.stride
  }

  /// The rows of all of it, for threads that each have one.
  struct Spans: ~Escapable, Sendable {
    let weights: MutableRowSpans<Float>
    let madeRows: MutableRowSpans<Float>
    let correlations: MutableRowSpans<Double>
    let kept: MutableRowSpans<UInt8>
    let searched: MutableRowSpans<UInt8>
    let search: MutableRowSpans<UInt8>
    let starts: MutableRowSpans<espalier_swap_start>
    let outcomes: MutableRowSpans<espalier_swap_outcome>

    @_lifetime(&scratch)
    init(_ scratch: inout BudgetScratch) {
      let (columns, bytes) = (scratch.columns, espalier_swap_scratch(scratch.columns, scratch.columns, 0))
      // They are parts of the scratch that do not overlap.
      weights = _overrideLifetime(scratch.weights.mutableRowSpans(columns: columns), copying: ())
      madeRows = _overrideLifetime(scratch.madeRows.mutableRowSpans(columns: columns), copying: ())
      correlations = _overrideLifetime(scratch.correlations.mutableRowSpans(columns: columns), copying: ())
      kept = _overrideLifetime(scratch.kept.mutableRowSpans(columns: columns), copying: ())
      searched = _overrideLifetime(scratch.searched.mutableRowSpans(columns: columns), copying: ())
      search = _overrideLifetime(scratch.search.mutableRowSpans(columns: bytes), copying: ())
      starts = _overrideLifetime(scratch.starts.mutableRowSpans(columns: 1), copying: ())
      outcomes = _overrideLifetime(scratch.outcomes.mutableRowSpans(columns: 1), copying: ())
    }
  }
}

extension BudgetMatrix.Spans {
  /// Prunes or restores one weight of a row, if one is given, and swaps to the local optimum: brings the row's mask, correlations and
  /// state up to date.
  ///
  /// - Parameter place: the row of the scratch to use.
  fileprivate func optimize(
    _ row: Int, flipping flipped: Int?, _ rows: BudgetRows, _ gram: espalier_gram,
    _ scratch: BudgetScratch.Spans, _ place: Int
  ) {
    let diagonal = rows.bounds.diagonal.span
    var stored = correlations[row]
    var bits = bits[row]
    var states = states[row]
    var state = states[0]
    let columns = stored.count
    var w = scratch.weights[place]
    var c = scratch.correlations[place]
    var kept = scratch.kept[place]
    rows.weight.load(row..<row + 1, into: &w)
    unpackBits(bits.span, into: &kept)
    for column in 0..<columns { c[column] = Double(stored[column]) }
    if let flipped {
      state.kept += kept[flipped] == 1 ? -1 : 1
      scratch.flip(flipped, place, gram, w.span, &c, &kept)
    }
    var searched = scratch.searched[place]
    searched.copy(kept.span)
    var bytes = scratch.search[place]
    var starts = scratch.starts[place]
    if shifts.rows > 0 {
      starts[0] = start(shifts[row].span, w.span, kept.span, diagonal)
      state.scale = starts[0].scale
    }
    var outcome = scratch.outcomes[place]
    espalier_swap_search(
      gram, diagonal, rows.bounds.norms.span, rows.bounds.largestCorrelations.span, columns,
      rows.limit.map { UInt64($0 - state.swaps) } ?? .max, w.span, &searched, c.span, espalier_gram(),
      c.span.extracting(first: 0),
      &bytes,
      starts.span,
      &outcome)
    let found = outcome[0]
    if found.moves > 0 {
      for column in 0..<columns where kept[column] != searched[column] {
        scratch.flip(column, place, gram, w.span, &c, &kept)
      }
    }
    if flipped == nil { state.fresh = found.before }
    state.loss = found.after
    state.swaps += Int(found.moves)
    state.evaluated += Int(found.evaluated)
    state.pairs += Int(found.choices)
    state.ends = espalier_find_row_ends(diagonal, w.span, kept.span, c.span)
    for column in 0..<columns { stored[column] = Float(c[column]) }
    packBits(kept.span, into: &bits)
    states[0] = state
  }

  private func start(
    _ shift: Span<Float>, _ w: Span<Float>, _ kept: Span<UInt8>, _ diagonal: Span<Double>
  ) -> espalier_swap_start {
    var start = espalier_swap_start()
    for column in w.indices {
      let weight = Double(w[column])
      if kept[column] == 0 { start.extra += weight * Double(shift[column]) }
      start.scale += weight * weight * diagonal[column]
    }
    return start
  }
}

extension BudgetScratch.Spans {
  /// Prunes or restores one weight, and brings the correlations up to date.
  fileprivate func flip(
    _ column: Int, _ place: Int, _ gram: espalier_gram, _ w: Span<Float>, _ c: inout MutableSpan<Double>,
    _ kept: inout MutableSpan<UInt8>
  ) {
    let added = Double(w[column])
    var made = madeRows[place]
    espalier_add_gram_row(gram, column, kept[column] == 1 ? added : -added, &made, &c)
    kept[column] ^= 1
  }
}
