import CKernels
import COpenBLAS
import EspalierCore

/// How the kept weights of a mask are fitted.
public struct ReconstructOptions: Sendable {
  /// What moving a weight costs, as a share of the mean of G's diagonal.
  public var damping: Double
  /// A row ends when what is left of its gradient, in the norm of the preconditioner, is this share of the first.
  public var tolerance: Double
  /// The most steps of one row.
  public var limit: Int

  public init(damping: Double = 0.01, tolerance: Double = 1e-4, limit: Int = 500) {
    self.damping = damping
    self.tolerance = tolerance
    self.limit = limit
  }
}

/// What fitting the kept weights of one matrix did.
public struct ReconstructOutcome: BlockOutcome {
  /// Sum over the rows of `(w - w')^T G (w - w')`, with w' the masked weights, and with w' the fitted ones.
  public var lossBefore = 0.0
  public var lossAfter = 0.0
  /// Steps of conjugate gradients in all rows, and the most of one row; none if the rows were solved directly.
  public var steps = 0
  public var mostSteps = 0
  /// Rows that stopped at the limit.
  public var rowsAtLimit = 0

  public init() {}

  public mutating func add(_ next: ReconstructOutcome) {
    lossBefore += next.lossBefore
    lossAfter += next.lossAfter
    steps += next.steps
    mostSteps = max(mostSteps, next.mostSteps)
    rowsAtLimit += next.rowsAtLimit
  }

  mutating func add(_ rows: [FitState]) {
    for row in rows {
      lossBefore += row.before
      lossAfter += row.after
      steps += row.steps
      mostSteps = max(mostSteps, row.steps)
      rowsAtLimit += row.isAtLimit ? 1 : 0
    }
  }
}

/// Fits the kept weights of every row so that they make up for the pruned ones.
///
/// w' minimises `(w - w')^T G (w - w') + d |w - w'|^2` among the weights that the mask allows, d being `damping` times the mean of G's
/// diagonal.
///
/// If the targets have a shift s, `2 (w - w') . s` is added, and the losses mean what ``TargetShift`` says.
///
/// Narrow rows are solved by a Cholesky factor of G on what they keep, wide ones by conjugate gradients, the rows of a block in one
/// product with G; both end at the same weights.
///
/// - Parameters:
///   - weight: `rows x columns`, dense.
///   - gram: `columns x columns`.
///   - shift: what the targets have beyond the outputs of the dense rows; nil if nothing.
///   - rows: those that are fitted, whole blocks of them; nil for all.
///   - write: takes the new weights, 0 where pruned, in blocks of rows, the first row first.
/// - Throws: what `write` throws.
public func reconstruct(
  _ weight: LinearWeight, gram: GramMatrix, shift: TargetShift? = nil, mask: Mask,
  options: ReconstructOptions = ReconstructOptions(), rows: Range<Int>? = nil, on device: Device,
  write: (borrowing Matrix) throws -> Void
) throws -> BlockOutcomes<ReconstructOutcome> {
  precondition(
    gram.columns == weight.columns && mask.rows == weight.rows && mask.columns == weight.columns
      && weight.mask == nil)
  var outcomes = BlockOutcomes<ReconstructOutcome>()
  let system = FitSystem(gram, options)
  for rows in weight.blocks(of: rows) {
    var outcome = ReconstructOutcome()
    var block = RowBlock(weight, mask, rows: rows, on: device)
    let shifts = RowShifts(shift, rows, of: weight, on: device)
    outcome.add(fit(&block, system, shifts, on: device))
    outcomes.blocks.append(outcome)
    try write(block.weights)
  }
  return outcomes
}

/// The most weights that a factor of their own is made for: 8 MiB for each thread.
private let widestFactor = 1024

extension ReconstructOptions {
  /// Operations that fitting one row with `kept` weights takes, about.
  public static func operations(kept: Int, columns: Int) -> Double {
    min(directOperations(kept), FitSystem.expectedSteps * 2 * Double(columns * columns))
  }

  /// A product in f32 runs at two and a half times the rate of a small factor in f64.
  fileprivate static func directOperations(_ kept: Int) -> Double {
    kept <= widestFactor ? 2.5 * Double(kept) * Double(kept) * Double(kept) / 3 : .infinity
  }

  /// Bytes that ``reconstruct(_:gram:mask:options:on:write:)`` takes, without the pages of the weight and the Gram matrix.
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
    let product = GramMatrix.productByteCount(rows: block, rank: rank)
    let widest = widestNarrowRow(columns: columns, pattern)
    // Rows of a block are solved directly if the widest is narrow, which takes all of G.
    let solving =
      block * 8 + min(threads, block) * NarrowSystem.byteCount(widest: widest)
      + (rank == nil || widest == 0 ? 0 : columns * columns * 4)
    let descending = 2 * matrix + block * MemoryLayout<espalier_fit>.stride + product
    return RowBlock.byteCount(rows: rows, columns: columns)
      + max(2 * matrix + max(solving, descending), writing(block))
  }

  /// The most weights that a row of a pattern keeps and a factor of its own is made for; 0 if none is.
  private static func widestNarrowRow(columns: Int, _ pattern: SparsityPattern?) -> Int {
    func isNarrow(_ kept: Int) -> Bool {
      FitSystem.isNarrow(kept, columns: columns, expectedSteps: FitSystem.expectedSteps)
    }
    switch pattern {
    case .rows, .groups:
      let kept = pattern?.kept(ofColumns: columns) ?? 0
      return isNarrow(kept) ? kept : 0
    case .matrix, nil:
      // Rows keep any number.
      return stride(from: min(columns, widestFactor), to: 0, by: -1).first(where: isNarrow) ?? 0
    }
  }
}

/// What all rows have in common: the system's matrix `G + diag(damping)`, and the inverse of its diagonal.
struct FitSystem: Sendable {
  /// Steps that conjugate gradients are expected to take.
  static let expectedSteps = 40.0

  let gram: GramMatrix
  var options: ReconstructOptions
  let damping: [Float]
  /// 0 for a channel without input: its weights stay as they are.
  let inverse: [Float]
  /// Of the square of the gradient.
  let tolerance: Double
  var expectedSteps = Self.expectedSteps

  init(_ gram: GramMatrix, _ options: ReconstructOptions) {
    self.gram = gram
    self.options = options
    let diagonal = gram.diagonal
    let mean = diagonal.reduce(0, +) / Double(max(1, diagonal.count))
    // A sum in f32 knows G no better than the second term, which keeps a singular G from looking indefinite.
    let added = diagonal.map { options.damping * mean + 1e-6 * $0 }
    damping = added.map(Float.init)
    tolerance = options.tolerance * options.tolerance
    inverse = zip(diagonal, added).map { $0 > 0 ? Float(1 / ($0 + $1)) : 0 }
  }

  /// Whether a factor of the `kept` rows and columns of G costs less than conjugate gradients.
  static func isNarrow(_ kept: Int, columns: Int, expectedSteps: Double) -> Bool {
    ReconstructOptions.directOperations(kept) < expectedSteps * 2 * Double(columns) * Double(columns)
  }
}

/// How the fit of one row went.
struct FitState {
  var before = 0.0
  /// By how much the damped loss fell.
  var gain = 0.0
  var after = 0.0
  var steps = 0
  var isAtLimit = false
}

/// Fits the kept weights of a block of rows, and sets the others to 0.
///
/// - Parameter shifts: of the targets of these rows.
func fit(
  _ block: inout RowBlock, _ system: FitSystem, _ shifts: borrowing RowShifts, on device: Device
) -> [FitState] {
  let (rows, columns) = (block.rows.count, block.columns)
  // Half of what is left of each row's gradient: at first G times the pruned part, and the shift.
  var rest = Matrix(unfilled: rows, columns: columns)
  var states: [FitState]
  do {
    let pruned = block.prunedPart(on: device)
    system.gram.multiply(pruned, rows: rows, into: &rest, on: device)
    let terms = shifts.products(pruned)
    states = (0..<rows).map {
      FitState(before: espalier_dot(pruned.rowSpans[$0], rest.rowSpans[$0]) + 2 * terms[$0])
    }
    shifts.add(to: &rest)
  }
  // What the kept weights get.
  var x = Matrix(rows: rows, columns: columns)
  let spans = block.spans
  let (rests, updates) = (rest.mutableRowSpans, x.mutableRowSpans)
  let open = solveDirectly(system, spans.kept, rests, updates, &states, on: device)
  descend(open, system, spans.kept, rests, updates, &states, on: device)
  for row in 0..<rows {
    let kept = spans.kept[row]
    let x = updates[row]
    var w = spans.weights[row]
    let moved = espalier_fit_end(kept.span, system.damping.span, x.span, &w)
    let after = states[row].before - states[row].gain - moved
    states[row].after = shifts.isNone ? max(0, after) : after
  }
  return states
}

/// Solves the rows by a Cholesky factor each if that is cheap; returns the rows that are still to be fitted.
private func solveDirectly(
  _ system: FitSystem, _ kept: MutableRowSpans<UInt8>, _ rest: MutableRowSpans<Float>,
  _ x: MutableRowSpans<Float>, _ states: inout [FitState], on device: Device
) -> [Int] {
  let columns = system.gram.columns
  let widest =
    states.indices.map { row in
      let kept = kept[row]
      return kept.indices.reduce(0) { $0 + Int(kept[$1]) }
    }.max() ?? 0
  guard FitSystem.isNarrow(widest, columns: columns, expectedSteps: system.expectedSteps) else {
    return Array(states.indices)
  }
  guard widest > 0 else { return [] }
  var gains = Buffer<Double>(count: states.count)
  do {
    let gains = gains.mutableRowSpans(columns: 1)
    let count = states.count
    system.gram.withElements(on: device) { gram in
      device.forEach(
        count, scratch: { NarrowSystem(widest: widest) },
        { scratch, row in
          var gain = gains[row]
          var x = x[row]
          gain[0] = scratch.solve(system, gram.span, kept[row].span, rest[row].span, into: &x)
        })
    }
  }
  for row in states.indices where !gains[row].isNaN { states[row].gain = gains[row] }
  return states.indices.filter { gains[$0].isNaN }
}

/// The system of one row: the rows and columns of G that it keeps, in f64.
private struct NarrowSystem: ~Copyable {
  private var channels: Buffer<UInt32>
  private var matrix: Buffer<Double>
  private var solution: Buffer<Double>

  init(widest: Int) {
    channels = Buffer(count: widest)
    matrix = Buffer(count: widest * widest)
    solution = Buffer(count: widest)
  }

  static func byteCount(widest: Int) -> Int { widest * (4 + 8 + 8 * widest) }

  /// Returns by how much the damped loss falls; not a number if the matrix has no Cholesky factor.
  mutating func solve(
    _ system: FitSystem, _ gram: Span<Float>, _ kept: Span<UInt8>, _ rest: Span<Float>,
    into x: inout MutableSpan<Float>
  ) -> Double {
    let count = Self.gather(system, gram, kept, rest, &channels, &matrix, &solution)
    guard count > 0 else { return 0 }
    guard Self.solve(count, &matrix, &solution) else { return .nan }
    var gain = 0.0
    for index in 0..<count {
      let channel = Int(channels[index])
      gain += solution[index] * Double(rest[channel])
      x[channel] = Float(solution[index])
    }
    return gain.isFinite ? gain : .nan
  }

  private static func gather(
    _ system: FitSystem, _ gram: Span<Float>, _ kept: Span<UInt8>, _ rest: Span<Float>,
    _ channels: inout Buffer<UInt32>, _ matrix: inout Buffer<Double>, _ side: inout Buffer<Double>
  ) -> Int {
    var channels = channels.mutableSpan
    var matrix = matrix.mutableSpan
    var side = side.mutableSpan
    return espalier_fit_gather(
      kept, system.inverse.span, system.damping.span, gram, rest, &channels, &matrix, &side)
  }

  /// Replaces the right side by the solution; false if the matrix is not positive definite.
  private static func solve(_ count: Int, _ matrix: inout Buffer<Double>, _ side: inout Buffer<Double>)
    -> Bool
  {
    matrix.withUnsafeMutable { matrix in
      side.withUnsafeMutable { side in
        var (order, one, info) = (blasint(count), blasint(1), blasint(0))
        dpotrf_("L", &order, matrix.baseAddress, &order, &info)
        guard info == 0 else { return false }
        dpotrs_("L", &order, &one, matrix.baseAddress, &order, side.baseAddress, &order, &info)
        return true
      }
    }
  }
}

/// Conjugate gradients of all open rows, with the inverse of the diagonal as preconditioner: one product with G a step.
private func descend(
  _ rows: [Int], _ system: FitSystem, _ kept: MutableRowSpans<UInt8>, _ rest: MutableRowSpans<Float>,
  _ x: MutableRowSpans<Float>, _ states: inout [FitState], on device: Device
) {
  guard !rows.isEmpty else { return }
  let columns = system.gram.columns
  // Row k of these belongs to the k-th open row.
  var directions = Matrix(unfilled: rows.count, columns: columns)
  var products = Matrix(unfilled: rows.count, columns: columns)
  var steps = Buffer<espalier_fit>(count: rows.count)
  var open = rows
  var left: [Double]
  do {
    let directions = directions.mutableRowSpans
    left = open.indices.map { index in
      let row = open[index]
      var x = x[row]
      var rest = rest[row]
      var direction = directions[index]
      return espalier_fit_begin(kept[row].span, system.inverse.span, &x, &rest, &direction)
    }
  }
  var first = left
  for step in 1...max(1, system.options.limit) {
    system.gram.multiply(directions, rows: open.count, into: &products, on: device)
    let lines = directions.mutableRowSpans
    do {
      let products = products.rowSpans
      let steps = steps.mutableRowSpans(columns: 1)
      let (open, left) = (open, left)
      device.forEach(open.count) { index in
        let row = open[index]
        var step = steps[index]
        var direction = lines[index]
        var x = x[row]
        var rest = rest[row]
        step[0] = espalier_fit_step(
          left[index], kept[row].span, system.damping.span, system.inverse.span, products[index], &direction,
          &x, &rest)
      }
    }
    var remaining = 0
    for index in open.indices {
      let row = open[index]
      states[row].gain += steps[index].gain
      states[row].steps = step
      guard steps[index].left > system.tolerance * first[index] else { continue }
      if remaining < index {
        var to = lines[remaining]
        to.copy(lines[index].span)
      }
      (open[remaining], left[remaining], first[remaining]) = (row, steps[index].left, first[index])
      remaining += 1
    }
    open.removeLast(open.count - remaining)
    if open.isEmpty { return }
  }
  for row in open { states[row].isAtLimit = true }
}
