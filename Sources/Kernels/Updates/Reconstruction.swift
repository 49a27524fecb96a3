import CKernels
import COpenBLAS
import EspalierCore

/// How the kept weights of a mask are fitted anew.
public struct ReconstructOptions: Sendable {
  /// What moving a weight costs, as a share of the mean of G's diagonal.
  public var damping: Double
  /// A row ends where what is left of its gradient, in the norm of the preconditioner, is this share of the
  /// first.
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
public struct ReconstructOutcome: Sendable {
  /// Sum over the rows of `(w - w')^T G (w - w')`, with w' the masked weights, and with w' the fitted ones.
  public var lossBefore = 0.0
  public var lossAfter = 0.0
  /// Steps of conjugate gradients in all rows, and the most of one row; none where the rows were solved
  /// directly.
  public var steps = 0
  public var mostSteps = 0
  /// Rows that stopped at the limit.
  public var rowsAtLimit = 0

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
/// w' minimises `(w - w')^T G (w - w') + d |w - w'|^2` among the weights that the mask allows, d being
/// `damping` times the mean of G's diagonal.
///
/// Narrow rows are solved by a Cholesky factor of G on what they keep, wide ones by conjugate gradients, the
/// rows of a block in one product with G; both end at the same weights.
///
/// - Parameters:
///   - weight: `rows x columns`, dense.
///   - gram: `columns x columns`.
///   - write: takes the new weights, 0 where pruned, in blocks of rows, the first row first.
/// - Throws: what `write` throws.
public func reconstruct(
  _ weight: LinearWeight, gram: GramMatrix, mask: Mask, options: ReconstructOptions = ReconstructOptions(),
  write: (borrowing Matrix) throws -> Void
) throws -> ReconstructOutcome {
  precondition(
    gram.columns == weight.columns && mask.rows == weight.rows && mask.columns == weight.columns
      && weight.mask == nil)
  var outcome = ReconstructOutcome()
  let system = FitSystem(gram, options)
  for rows in parts(of: weight.rows, size: fittedRows) {
    var weights = weight.matrix(rows)
    var kept = KeptRows(mask, rows: rows)
    outcome.add(fit(&weights, &kept, system))
    try write(weights)
  }
  return outcome
}

/// What the new weights lose of the layer's outputs: `(w - w')^T G (w - w')` of each row, summed in f64.
///
/// - Parameters:
///   - weight: `rows x columns`, dense.
///   - new: consecutive rows of new weights, that of `firstRow` first.
public func updateLoss(
  _ weight: LinearWeight, _ new: borrowing Matrix, firstRow: Int, gram: GramMatrix
) -> [Double] {
  precondition(new.columns == weight.columns && gram.columns == weight.columns && weight.mask == nil)
  let (rows, columns) = (new.rows, new.columns)
  var difference = weight.matrix(firstRow..<firstRow + rows)
  var product = Matrix(rows: rows, columns: columns)
  difference.elements.withUnsafeMutable { difference in
    new.elements.withUnsafe { new in
      for index in 0..<rows * columns { difference[index] -= new[index] }
    }
  }
  gram.multiply(difference, rows: rows, into: &product)
  return difference.dots(product)
}

/// The most weights that a factor of their own is made for: 8 MiB for each thread.
private let widestFactor = 1024

/// What all rows have in common: the system's matrix `G + diag(damping)`, and the inverse of its diagonal.
struct FitSystem: Sendable {
  let gram: GramMatrix
  let options: ReconstructOptions
  let damping: [Float]
  /// 0 for a channel without input: its weights stay as they are.
  let inverse: [Float]
  /// Of the square of the gradient.
  let tolerance: Double
  /// What conjugate gradients are expected to take.
  var expectedSteps = 40.0

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
  func isNarrow(_ kept: Int) -> Bool {
    guard kept <= widestFactor else { return false }
    let (kept, columns) = (Double(kept), Double(gram.columns))
    // A product in f32 runs at two and a half times the rate of a small factor in f64.
    return 2.5 * kept * kept * kept / 3 < expectedSteps * 2 * columns * columns
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
func fit(_ weights: inout Matrix, _ kept: inout KeptRows, _ system: FitSystem) -> [FitState] {
  let (rows, columns) = (weights.rows, weights.columns)
  // Half of what is left of each row's gradient: at first G times the pruned part.
  var rest = Matrix(rows: rows, columns: columns)
  let pruned = kept.prunedPart(of: weights)
  system.gram.multiply(pruned, rows: rows, into: &rest)
  var states = pruned.dots(rest).map { FitState(before: $0) }
  // What the kept weights get.
  var x = Matrix(rows: rows, columns: columns)
  kept.withRows { kept in
    rest.withRows { rest in
      x.withRows { x in
        let open = solveDirectly(system, kept, rest, x, &states)
        descend(open, system, kept, rest, x, &states)
        weights.withRows { weights in
          for row in 0..<rows {
            let moved = espalier_fit_end(columns, kept[row], system.damping, x[row], weights[row])
            states[row].after = max(0, states[row].before - states[row].gain - moved)
          }
        }
      }
    }
  }
  return states
}

/// Solves the rows by a Cholesky factor each where that is cheap; returns the rows that are still to be
/// fitted.
private func solveDirectly(
  _ system: FitSystem, _ kept: RowPointers<UInt8>, _ rest: RowPointers<Float>, _ x: RowPointers<Float>,
  _ states: inout [FitState]
) -> [Int] {
  let columns = system.gram.columns
  let widest = states.indices.map { row in (0..<columns).reduce(0) { $0 + Int(kept[row][$1]) } }.max() ?? 0
  guard system.isNarrow(widest) else { return Array(states.indices) }
  var gains = [Double](repeating: 0, count: states.count)
  gains.withUnsafeMutableBufferPointer { gains in
    system.gram.withElements { gram in
      nonisolated(unsafe) let (gains, gram) = (gains, gram)
      Threads.forEach(gains.count, scratch: { NarrowSystem(widest: widest) }) { scratch, row in
        gains[row] = scratch.solve(system, gram, kept[row], rest[row], into: x[row])
      }
    }
  }
  for row in states.indices where !gains[row].isNaN { states[row].gain = gains[row] }
  return states.indices.filter { gains[$0].isNaN }
}

/// The system of one row: the rows and columns of G that it keeps, in f64.
private struct NarrowSystem: ~Copyable {
  var channels: Buffer<UInt32>
  var matrix: Buffer<Double>
  var solution: Buffer<Double>

  init(widest: Int) {
    channels = Buffer(count: widest)
    matrix = Buffer(count: widest * widest)
    solution = Buffer(count: widest)
  }

  /// Returns by how much the damped loss falls; not a number where the matrix has no Cholesky factor.
  mutating func solve(
    _ system: FitSystem, _ gram: UnsafePointer<Float>, _ kept: UnsafePointer<UInt8>,
    _ rest: UnsafePointer<Float>, into x: UnsafeMutablePointer<Float>
  ) -> Double {
    let columns = system.gram.columns
    return channels.withUnsafeMutable { channels in
      matrix.withUnsafeMutable { matrix in
        solution.withUnsafeMutable { solution in
          let (channels, matrix, solution) = (
            channels.baseAddress!, matrix.baseAddress!, solution.baseAddress!
          )
          let count = espalier_fit_gather(
            columns, kept, system.inverse, system.damping, gram, rest, channels, matrix, solution)
          guard count > 0 else { return 0 }
          var (order, one, info) = (blasint(count), blasint(1), blasint(0))
          dpotrf_("L", &order, matrix, &order, &info)
          guard info == 0 else { return .nan }
          dpotrs_("L", &order, &one, matrix, &order, solution, &order, &info)
          var gain = 0.0
          for index in 0..<count {
            let channel = Int(channels[index])
            gain += solution[index] * Double(rest[channel])
            x[channel] = Float(solution[index])
          }
          return gain.isFinite ? gain : .nan
        }
      }
    }
  }
}

/// Conjugate gradients of all open rows, with the inverse of the diagonal as preconditioner: one product with
/// G a step.
private func descend(
  _ rows: [Int], _ system: FitSystem, _ kept: RowPointers<UInt8>, _ rest: RowPointers<Float>,
  _ x: RowPointers<Float>, _ states: inout [FitState]
) {
  guard !rows.isEmpty else { return }
  let columns = system.gram.columns
  let (damping, inverse) = (system.damping, system.inverse)
  // Row k of these belongs to the k-th open row.
  var direction = Matrix(rows: rows.count, columns: columns)
  var product = Matrix(rows: rows.count, columns: columns)
  var open = rows
  var left = [Double](repeating: 0, count: open.count)
  direction.withRows { direction in
    left = open.indices.map {
      espalier_fit_begin(columns, kept[open[$0]], inverse, x[open[$0]], rest[open[$0]], direction[$0])
    }
  }
  var first = left
  for step in 1...max(1, system.options.limit) {
    system.gram.multiply(direction, rows: open.count, into: &product)
    var steps = [espalier_fit](repeating: espalier_fit(), count: open.count)
    steps.withUnsafeMutableBufferPointer { steps in
      direction.withRows { direction in
        product.withRows { product in
          nonisolated(unsafe) let steps = steps
          let (open, left) = (open, left)
          Threads.forEach(open.count) { index in
            let row = open[index]
            steps[index] = espalier_fit_step(
              columns, left[index], kept[row], damping, inverse, product[index], direction[index], x[row],
              rest[row])
          }
        }
      }
    }
    var remaining = 0
    direction.withRows { direction in
      for index in open.indices {
        let row = open[index]
        states[row].gain += steps[index].gain
        states[row].steps = step
        guard steps[index].left > system.tolerance * first[index] else { continue }
        direction[remaining].update(from: direction[index], count: columns)
        (open[remaining], left[remaining], first[remaining]) = (row, steps[index].left, first[index])
        remaining += 1
      }
    }
    open.removeLast(open.count - remaining)
    if open.isEmpty { return }
  }
  for row in open { states[row].isAtLimit = true }
}
