import CKernels
import COpenBLAS
import EspalierCore

/// How masks and weights are found together.
public struct ADMMOptions: Sendable {
  /// What is added to the diagonal of G, as a share of its mean; the final fit has the same.
  public var damping: Double
  /// What keeps the dense and the sparse copy of a row together at first, for inputs of unit norm.
  public var penalty: Double
  /// By how much that grows after every three steps.
  public var growth: Double
  /// The most steps of one row.
  public var limit: Int

  public init(damping: Double = 0.01, penalty: Double = 0.1, growth: Double = 1.3, limit: Int = 300) {
    self.damping = damping
    self.penalty = penalty
    self.growth = growth
    self.limit = limit
  }
}

/// What finding masks and weights together did.
public struct ADMMOutcome: Sendable {
  public var mask: Mask
  /// Steps of all rows, and the most of one row.
  public var steps = 0
  public var mostSteps = 0
  /// Rows that had not come to rest at the limit.
  public var rowsAtLimit = 0
  /// The fit of the weights on the masks: its loss before is that of the masks alone.
  public var fit = ReconstructOutcome()
}

/// Steps between two looks at whether a mask still changes.
private let stepsOfARound = 3
/// How far the dense and the sparse copy of a row may be apart at the end, as a share of its norm.
private let apart = 0.1
/// Columns of a product that one thread takes.
private let columnPanel = 512

/// Prunes and fits at once: minimises `(w - x)^T G (w - x)` over rows x that keep as many weights as the
/// pattern says, by ADMM with a copy of x that has the pattern, then fits the weights on the mask where it
/// came to rest (after ALPS, arXiv 2406.07831, section 3).
///
/// The inputs are scaled to unit norm. The penalty of a row grows until its mask stays the same for three
/// steps and the copies are close; rows do not depend on each other. Needs three times the memory of G while
/// its eigenvectors are computed.
///
/// - Parameters:
///   - weight: `rows x columns`, dense.
///   - gram: `columns x columns`.
///   - pattern: one with a count for each row or group.
///   - write: takes the new weights, 0 where pruned, in blocks of rows, the first row first.
/// - Throws: bad input where G has no eigenvectors; what `write` throws.
public func pruneByADMM(
  _ weight: LinearWeight, gram: GramMatrix, pattern: SparsityPattern, options: ADMMOptions = ADMMOptions(),
  write: (borrowing Matrix) throws -> Void
) throws -> ADMMOutcome {
  if case .matrix = pattern { preconditionFailure("ADMM needs a count for each row") }
  precondition(
    gram.columns == weight.columns && pattern.fits(columns: weight.columns) && weight.mask == nil)
  let spectrum = try Spectrum(gram, damping: options.damping)
  let system = FitSystem(gram, ReconstructOptions(damping: options.damping))
  var outcome = ADMMOutcome(mask: Mask(rows: weight.rows, columns: weight.columns, pattern: pattern))
  for rows in parts(of: weight.rows, size: fittedRows) {
    var weights = weight.matrix(rows)
    var kept = KeptRows(rows: rows.count, columns: weight.columns)
    let found = search(weights, spectrum, pattern, options, &kept)
    outcome.steps += found.steps.reduce(0, +)
    outcome.mostSteps = max(outcome.mostSteps, found.steps.max() ?? 0)
    outcome.rowsAtLimit += found.open
    outcome.fit.add(fit(&weights, &kept, system))
    kept.store(into: &outcome.mask, firstRow: rows.lowerBound)
    try write(weights)
  }
  return outcome
}

/// The eigenvectors of G, damped, with its inputs scaled to unit norm.
private struct Spectrum: ~Copyable {
  /// The norm of every input.
  let scale: [Float]
  /// One eigenvector a row, that of the smallest value first.
  var vectors: Matrix
  var values: [Float]

  init(_ gram: GramMatrix, damping: Double) throws {
    let columns = gram.columns
    let diagonal = gram.diagonal
    let added = damping * diagonal.reduce(0, +) / Double(max(1, columns))
    // A channel without input has no norm, and is on its own.
    let scale = diagonal.map { $0 + added > 0 ? Float(($0 + added).squareRoot()) : 1 }
    self.scale = scale
    vectors = Matrix(rows: columns, columns: columns)
    values = [Float](repeating: 0, count: columns)
    vectors.withRows { rows in
      let bands = parts(of: columns, size: 64)
      Threads.forEach(bands.count) { index in
        gram.load(bands[index], into: rows[bands[index].lowerBound])
        for row in bands[index] {
          for column in 0..<columns { rows[row][column] /= scale[row] * scale[column] }
          rows[row][row] = 1
        }
      }
    }
    try vectors.eigenvectors(values: &values)
  }

  /// `output = input V^T`, or `input V` back again, for rows of V that are eigenvectors.
  borrowing func turn(
    _ input: RowPointers<Float>, back: Bool, rows: Int, into output: RowPointers<Float>
  ) {
    let columns = scale.count
    vectors.elements.withUnsafe { vectors in
      nonisolated(unsafe) let vectors = vectors.baseAddress!
      let panels = parts(of: columns, size: columnPanel)
      Threads.forEach(panels.count) { index in
        let panel = panels[index]
        cblas_sgemm(
          CblasRowMajor, CblasNoTrans, back ? CblasNoTrans : CblasTrans, blasint(rows), blasint(panel.count),
          blasint(columns), 1, input[0], blasint(columns),
          vectors + panel.lowerBound * (back ? 1 : columns), blasint(columns), 0,
          output[0] + panel.lowerBound, blasint(columns))
      }
    }
  }
}

extension Matrix {
  /// Turns a symmetric matrix into its eigenvectors, one a row, and their values, the smallest first.
  fileprivate mutating func eigenvectors(values: inout [Float]) throws {
    let wide = EspalierError.badInput(
      "LAPACK finds no eigenvectors of a Gram matrix of \(columns) inputs; use swap and reconstruct."
    )
    guard columns <= 32_000 else { throw wide }
    var order = blasint(columns)
    var sizes = (room: blasint(1 + 6 * columns + 2 * columns * columns), integers: blasint(3 + 5 * columns))
    var room = Buffer<Float>(count: Int(sizes.room))
    var integers = Buffer<Int32>(count: Int(sizes.integers))
    var info = blasint(0)
    // One thread, so that their number does not change the result.
    openblas_set_num_threads(1)
    elements.withUnsafeMutable { matrix in
      room.withUnsafeMutable { room in
        integers.withUnsafeMutable { integers in
          ssyevd_(
            "V", "L", &order, matrix.baseAddress!, &order, &values, room.baseAddress!, &sizes.room,
            integers.baseAddress!, &sizes.integers, &info)
        }
      }
    }
    guard info == 0 else { throw wide }
  }
}

/// Searches the masks of a block of rows; returns the steps of each, and how many had not come to rest at the
/// limit.
private func search(
  _ weights: borrowing Matrix, _ spectrum: borrowing Spectrum, _ pattern: SparsityPattern,
  _ options: ADMMOptions, _ kept: inout KeptRows
) -> (steps: [Int], open: Int) {
  let (rows, columns) = (weights.rows, weights.columns)
  let values = spectrum.values
  var scaled = Matrix(rows: rows, columns: columns)
  for row in 0..<rows {
    for column in 0..<columns { scaled[row, column] = weights[row, column] * spectrum.scale[column] }
  }
  // Where kept, the sparse copy of the scaled weights; elsewhere the dual.
  var copies = Matrix(rows: rows, columns: columns)
  // Row k of these belongs to the k-th open row.
  var sides = Matrix(rows: rows, columns: columns)
  var turned = Matrix(rows: rows, columns: columns)
  var steps = [Int](repeating: 0, count: rows)
  var open = Array(0..<rows)
  var penalty = Float(options.penalty)
  var before = Mask(rows: rows, columns: columns, pattern: pattern)
  return kept.withRows { kept in
    scaled.withRows { scaled in
      copies.withRows { copies in
        sides.withRows { sides in
          turned.withRows { turned in
            keepLargest(open, pattern, columns, shrink: 0, kept, scaled, sides, copies, magnitudes: turned)
            for step in 0..<max(1, options.limit) {
              // The dual is none at first, and scaled by the penalty.
              var shrink: Float = step == 0 ? 0 : 1
              if step > 0 && step % stepsOfARound == 0 {
                penalty *= Float(options.growth)
                shrink = Float(1 / options.growth)
              }
              let (live, rho, dual) = (open, penalty, shrink)
              Threads.forEach(live.count) { index in
                let row = live[index]
                espalier_admm_side(columns, rho, dual, kept[row], scaled[row], copies[row], sides[index])
              }
              spectrum.turn(sides, back: false, rows: live.count, into: turned)
              Threads.forEach(live.count) { espalier_admm_divide(columns, rho, values, turned[$0]) }
              spectrum.turn(turned, back: true, rows: live.count, into: sides)
              keepLargest(
                live, pattern, columns, shrink: dual, kept, scaled, sides, copies, magnitudes: turned)
              for row in live { steps[row] = step + 1 }
              guard (step + 1) % stepsOfARound == 0 else { continue }
              open = live.indices.filter { index in
                let row = live[index]
                return before.update(row: row, from: kept[row])
                  || espalier_admm_gap(columns, kept[row], sides[index], copies[row]) > apart * apart
              }.map { live[$0] }
              if open.isEmpty { break }
            }
            return (steps, open.count)
          }
        }
      }
    }
  }
}

/// The last halves of a step: the new copies and duals of the open rows, and the largest of each row or group
/// as the new mask.
private func keepLargest(
  _ open: [Int], _ pattern: SparsityPattern, _ columns: Int, shrink: Float, _ kept: RowPointers<UInt8>,
  _ scaled: RowPointers<Float>, _ changes: RowPointers<Float>, _ copies: RowPointers<Float>,
  magnitudes: RowPointers<Float>
) {
  let span = pattern.span(ofColumns: columns)
  let keep = pattern.kept(ofColumns: span)
  Threads.forEach(
    open.count, scratch: { Buffer<UInt32>(count: span) },
    { scratch, index in
      let (row, magnitudes) = (open[index], magnitudes[index])
      espalier_admm_next(columns, shrink, kept[row], scaled[row], changes[index], copies[row], magnitudes)
      scratch.withUnsafeMutable { scratch in
        for start in stride(from: 0, to: columns, by: span) {
          espalier_select_kept(span, keep, magnitudes + start, scratch.baseAddress!, kept[row] + start)
        }
      }
    })
}

extension Mask {
  /// Takes over a row of bytes of 0 and 1; returns whether that changed anything.
  fileprivate mutating func update(row: Int, from kept: UnsafePointer<UInt8>) -> Bool {
    let range = row * rowBytes..<(row + 1) * rowBytes
    let old = Array(bits[range])
    let columns = columns
    withUnsafeMutableBits { espalier_pack_bits(columns, kept, $0.baseAddress! + range.lowerBound) }
    return !old.elementsEqual(bits[range])
  }
}
