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
  /// How far the loss that was followed move by move was from that of fresh correlations at most, as a share of the
  /// loss before.
  public var drift = 0.0
  /// Pairs within rows whose change in loss was computed, and all pairs that there were to choose from.
  public var evaluatedPairs = 0
  public var allPairs = 0
}

/// Rows whose correlations come from one product.
private let rowBlock = 256
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
/// Memory holds the correlations of all rows, `rows x columns` of f32, and their masks, a byte for each weight.
///
/// - Parameters:
///   - weight: `rows x columns`, without a mask of its own.
///   - gram: `columns x columns`.
///   - mask: of a budget for each row or for the matrix; its pattern becomes ``SparsityPattern/matrix(sparsity:)``.
///   - options: its budget is ``SwapOptions/Budget/matrix(floor:)``; the limit is that of swaps in one row, moves have
///     none. Moves are of single weights, without held-out inputs.
///   - progress: called now and then with the rows that were searched, and all rows.
/// - Throws: what `progress` throws; the mask stays what it was.
public func refineAcrossRows(
  _ weight: LinearWeight, gram: GramMatrix, mask: inout Mask, options: SwapOptions,
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
  var rows = BudgetRows(weight, gram: gram, mask: mask, floor: floor, limit: options.limit)
  var outcome = MatrixBudgetOutcome()
  try rows.settleAll(progress)
  outcome.lossBefore = rows.states.reduce(0) { $0 + $1.fresh }
  for _ in 0..<mostRounds {
    let moves = try rows.moveWhileItHelps(progress)
    if moves == 0 { break }
    outcome.moves += moves
    let followed = rows.loss
    try rows.settleAll(progress)
    let fresh = rows.states.reduce(0) { $0 + $1.fresh }
    outcome.drift = max(
      outcome.drift, abs(followed - fresh) / max(outcome.lossBefore, .leastNonzeroMagnitude))
  }
  outcome.lossAfter = rows.loss
  for state in rows.states {
    outcome.swaps += state.swaps
    outcome.mostSwaps = max(outcome.mostSwaps, state.swaps)
    outcome.rowsAtLimit += state.swaps >= options.limit ?? .max ? 1 : 0
    outcome.evaluatedPairs += state.evaluated
    outcome.allPairs += state.pairs
  }
  outcome.fewestKept = rows.states.map(\.kept).min() ?? 0
  outcome.mostKept = rows.states.map(\.kept).max() ?? 0
  mask = Mask(rows: mask.rows, columns: mask.columns, pattern: pattern)
  rows.kept.store(into: &mask, firstRow: 0)
  return outcome
}

/// One row of a matrix, at a local optimum of swaps.
private struct BudgetState: Sendable {
  var loss = 0.0
  /// The loss by the correlations that it was given, before any swap.
  var fresh = 0.0
  /// Weights that it keeps, and must keep at least.
  var kept: Int
  let floor: Int
  var swaps = 0
  var evaluated = 0
  var pairs = 0
  /// The cheapest weights to prune and to restore.
  var ends = espalier_row_ends()

  /// What it costs to prune one weight; infinite where none may be.
  var prune: Double { kept > floor ? ends.prune : .infinity }
}

/// All rows of a matrix with what moves between them need.
private struct BudgetRows: ~Copyable {
  let weight: LinearWeight
  let gram: GramMatrix
  let channels: ChannelBounds
  let diagonal: [Double]
  let limit: Int?
  var kept: KeptRows
  var correlations: Matrix
  var states: [BudgetState]

  init(_ weight: LinearWeight, gram: GramMatrix, mask: Mask, floor: Double, limit: Int?) {
    self.weight = weight
    self.gram = gram
    self.limit = limit
    channels = ChannelBounds(gram)
    diagonal = gram.diagonal
    kept = KeptRows(mask, rows: 0..<mask.rows)
    correlations = Matrix(rows: weight.rows, columns: weight.columns)
    states = (0..<mask.rows).map {
      let kept = mask.keptCount(row: $0)
      return BudgetState(kept: kept, floor: Int((floor * Double(kept)).rounded(.up)))
    }
  }

  var loss: Double { states.reduce(0) { $0 + $1.loss } }

  /// Computes all correlations anew, and brings each row to its local optimum.
  mutating func settleAll(_ progress: (Int, Int) throws -> Void) rethrows {
    let (rows, columns) = (weight.rows, weight.columns)
    var pruned = Matrix(rows: min(rowBlock, rows), columns: columns)
    var products = Matrix(rows: min(rowBlock, rows), columns: columns)
    for block in parts(of: rows, size: rowBlock) {
      withRows { settling in
        pruned.withRows { pruned in
          Threads.forEach(block.count) {
            settling.prunedPart(of: block.lowerBound + $0, into: pruned[$0])
          }
        }
      }
      gram.multiply(pruned, rows: block.count, into: &products)
      withRows { settling in
        products.withRows { products in
          Threads.forEach(block.count, scratch: { BudgetScratch(rows: 1, columns: columns) }) {
            scratch, index in
            let row = block.lowerBound + index
            settling.correlations[row].update(from: products[index], count: columns)
            scratch.withRooms { settling.settle(row, in: $0[0]) }
          }
        }
      }
      try progress(block.upperBound, rows)
    }
  }

  /// Makes the best move between rows until none lowers the loss; how many were made.
  mutating func moveWhileItHelps(_ progress: (Int, Int) throws -> Void) rethrows -> Int {
    let rows = weight.rows
    var loss = loss
    // More moves than kept weights could only be rounding errors of the correlations that go round in circles.
    let most = states.reduce(0) { $0 + $1.kept }
    var scratch = BudgetScratch(rows: 2, columns: weight.columns)
    return try scratch.withRooms { rooms in
      try withRows { settling in
        var prune = Tournament((0..<rows).map { settling.states[$0].prune })
        var restore = Tournament((0..<rows).map { settling.states[$0].ends.restore })
        var moves = 0
        while moves < most, let move = bestMove(prune, restore), move.change < -1e-9 * abs(loss) {
          let pair = [move.from, move.to]
          for row in pair { loss -= settling.states[row].loss }
          Threads.forEach(2) { index in
            let ends = settling.states[pair[index]].ends
            settling.settle(
              pair[index], in: rooms[index], flipping: Int(index == 0 ? ends.u : ends.p))
          }
          for row in pair {
            prune[row] = settling.states[row].prune
            restore[row] = settling.states[row].ends.restore
            loss += settling.states[row].loss
          }
          moves += 1
          if moves % 256 == 0 { try progress(rows, rows) }
        }
        return moves
      }
    }
  }

  private mutating func withRows<Result>(_ body: (Settling) throws -> Result) rethrows -> Result {
    let (weight, channels, diagonal, limit) = (weight, channels, diagonal, limit)
    return try gram.withKernel { gram in
      try correlations.withRows { correlations in
        try kept.withRows { kept in
          try states.withUnsafeMutableBufferPointer { states in
            try body(
              Settling(
                weight: weight, gram: gram, channels: channels, diagonal: diagonal, limit: limit,
                correlations: correlations, kept: kept, states: states))
          }
        }
      }
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

/// The least of a row of numbers, while they change one by one.
private struct Tournament {
  private var values: [Double]
  /// The winner of each pair: of places 2k and 2k + 1 at place k; the numbers themselves come last.
  private var winners: [Int]
  private let first: Int

  init(_ numbers: [Double]) {
    var first = 1
    while first < numbers.count { first *= 2 }
    self.first = first
    values = numbers + [Double](repeating: .infinity, count: first - numbers.count)
    winners = [Int](repeating: 0, count: first) + Array(0..<first)
    for place in stride(from: first - 1, to: 0, by: -1) { play(place) }
  }

  subscript(index: Int) -> Double {
    get { values[index] }
    set {
      values[index] = newValue
      var place = (first + index) / 2
      while place > 0 {
        play(place)
        place /= 2
      }
    }
  }

  /// The index of the least number, of equals the lowest; nil where all are infinite.
  func least() -> Int? { finite(winners[1]) }

  /// The same without one.
  func least(except index: Int) -> Int? {
    var best: Int?
    var place = first + index
    while place > 1 {
      // The side of the lower indices wins where both are equal.
      let other = winners[place ^ 1]
      if let own = best {
        best = place & 1 == 0 ? winner(own, other) : winner(other, own)
      } else {
        best = other
      }
      place /= 2
    }
    return best.flatMap(finite)
  }

  private mutating func play(_ place: Int) {
    winners[place] = winner(winners[2 * place], winners[2 * place + 1])
  }

  private func winner(_ lower: Int, _ higher: Int) -> Int {
    values[higher] < values[lower] ? higher : lower
  }

  private func finite(_ index: Int) -> Int? { values[index] < .infinity ? index : nil }
}

/// What brings rows to their local optimum, for threads that each have rows of their own; valid while the rows are.
private struct Settling: @unchecked Sendable {
  let weight: LinearWeight
  let gram: espalier_gram
  let channels: ChannelBounds
  let diagonal: [Double]
  let limit: Int?
  let correlations: RowPointers<Float>
  let kept: RowPointers<UInt8>
  let states: UnsafeMutableBufferPointer<BudgetState>

  /// `(1-m).w` of a row.
  func prunedPart(of row: Int, into output: UnsafeMutablePointer<Float>) {
    weight.load(row..<row + 1, into: output)
    espalier_pruned_part(weight.columns, output, kept[row], output)
  }

  /// Prunes or restores one weight, where one is given, and swaps to the local optimum.
  func settle(_ row: Int, in room: BudgetRoom, flipping flipped: Int? = nil) {
    let columns = weight.columns
    let (c, stored, kept) = (room.correlations, correlations[row], kept[row])
    weight.load(row..<row + 1, into: room.weights)
    for column in 0..<columns { c[column] = Double(stored[column]) }
    var state = states[row]
    if let flipped {
      state.kept += kept[flipped] == 1 ? -1 : 1
      flip(flipped, kept, room)
    }
    room.kept.update(from: kept, count: columns)
    room.searched.update(from: c, count: columns)
    var searched = espalier_swap_row()
    (searched.w, searched.kept, searched.c) = (
      UnsafePointer(room.weights), room.kept, room.searched
    )
    channels.withKernel(gram) {
      espalier_swap_search(
        $0, columns, limit.map { UInt64($0 - state.swaps) } ?? .max, 1, &searched, room.search)
    }
    let found = searched.outcome
    if found.moves > 0 {
      for column in 0..<columns where kept[column] != room.kept[column] { flip(column, kept, room) }
    }
    if flipped == nil { state.fresh = found.before }
    state.loss = found.after
    state.swaps += Int(found.moves)
    state.evaluated += Int(found.evaluated)
    state.pairs += Int(found.choices)
    state.ends = espalier_find_row_ends(columns, diagonal, room.weights, kept, c)
    for column in 0..<columns { stored[column] = Float(c[column]) }
    states[row] = state
  }

  /// Prunes or restores one weight, and brings the correlations up to date.
  private func flip(_ column: Int, _ kept: UnsafeMutablePointer<UInt8>, _ room: BudgetRoom) {
    let added = Double(room.weights[column])
    withUnsafePointer(to: gram) {
      espalier_add_scaled(
        weight.columns, kept[column] == 1 ? added : -added,
        espalier_gram_row($0, column, room.gramRow),
        room.correlations)
    }
    kept[column] ^= 1
  }
}

/// Room for the search of one row.
private struct BudgetRoom: @unchecked Sendable {
  let weights: UnsafeMutablePointer<Float>
  let correlations: UnsafeMutablePointer<Double>
  /// What the search changes: the mask, the correlations, its own bytes.
  let kept: UnsafeMutablePointer<UInt8>
  let searched: UnsafeMutablePointer<Double>
  let search: UnsafeMutableRawPointer
  /// A row of G that is made from a factor.
  let gramRow: UnsafeMutablePointer<Float>
}

private struct BudgetScratch: ~Copyable {
  private let columns: Int
  private var weights: Buffer<Float>
  private var correlations: Buffer<Double>
  private var kept: Buffer<UInt8>
  private var search: Buffer<UInt8>

  init(rows: Int, columns: Int) {
    self.columns = columns
    // A row of weights and one of G; the row's own correlations and those of the search.
    weights = Buffer(count: 2 * rows * columns)
    correlations = Buffer(count: 2 * rows * espalier_swap_padded(columns))
    kept = Buffer(count: rows * columns)
    search = Buffer(count: rows * espalier_swap_scratch(columns, columns))
  }

  mutating func withRooms<Result>(_ body: ([BudgetRoom]) throws -> Result) rethrows -> Result {
    let (columns, padded, bytes) = (
      columns, espalier_swap_padded(columns), espalier_swap_scratch(columns, columns)
    )
    return try weights.withUnsafeMutable { weights in
      try correlations.withUnsafeMutable { correlations in
        try kept.withUnsafeMutable { kept in
          try search.withUnsafeMutable { search in
            let (w, c, k, s) = (
              weights.baseAddress!, correlations.baseAddress!, kept.baseAddress!,
              search.baseAddress!
            )
            return try body(
              (0..<kept.count / columns).map {
                BudgetRoom(
                  weights: w + 2 * $0 * columns, correlations: c + 2 * $0 * padded,
                  kept: k + $0 * columns,
                  searched: c + (2 * $0 + 1) * padded,
                  search: UnsafeMutableRawPointer(s + $0 * bytes),
                  gramRow: w + (2 * $0 + 1) * columns)
              })
          }
        }
      }
    }
  }
}
