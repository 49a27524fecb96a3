import CKernels
import COpenBLAS
import EspalierCore

/// How masks and weights are found together.
public struct ADMMOptions: Sendable {
  /// What is added to the diagonal of G, as a share of its mean; the final fit has the same.
  public var damping: Double
  /// What keeps the dense and the sparse copy of a row together at first: a multiple of the 5 % quantile of G's eigenvalues, its
  /// inputs scaled to unit norm.
  public var penalty: Double
  /// The most steps of one row.
  public var limit: Int

  public init(damping: Double = 0.01, penalty: Double = 1, limit: Int = 300) {
    self.damping = damping
    self.penalty = penalty
    self.limit = limit
  }

  /// Bytes that ``pruneByADMM(_:gram:pattern:options:on:write:)`` takes, without the pages of the weight and the Gram matrix and without
  /// the mask.
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
    let searching =
      RowBlock.byteCount(rows: rows, columns: columns) + 4 * block * columns * 4
      + min(threads, block) * (pattern?.span(ofColumns: columns) ?? columns) * 4
    let fitting = ReconstructOptions.workingSet(
      rows: rows, columns: columns, pattern: pattern, rank: rank, threads: threads, writing: writing)
    return columns * columns * 4 + max(EigenScratch.byteCount(columns: columns), searching, fitting)
  }
}

/// What finding masks and weights together did.
public struct ADMMOutcome: BlockOutcome {
  /// Steps of all rows, and the most of one row.
  public var steps = 0
  public var mostSteps = 0
  /// Rows that had not come to rest at the limit.
  public var rowsAtLimit = 0
  /// The fit of the weights on the masks: its loss before is that of the masks alone.
  public var fit = ReconstructOutcome()

  public init() {}

  public mutating func add(_ next: ADMMOutcome) {
    steps += next.steps
    mostSteps = max(mostSteps, next.mostSteps)
    rowsAtLimit += next.rowsAtLimit
    fit.add(next.fit)
  }
}

/// Steps between two checks whether a mask still changes.
private let stepsOfARound = 3
/// By how much a row's penalty grows after a round, by the number of weights that went from one side to the other as a share of
/// those that are kept: the more, the faster (ALPS, arXiv 2406.07831, appendix). A mask that is at rest only waits for the copies to
/// come together.
private func growth(moved: Double) -> Float {
  switch moved {
  case 0, 0.1...: 1.3
  case 0.005...: 1.2
  default: 1.1
  }
}
/// The quantile of the eigenvalues that the first penalty is a multiple of; the more the inputs are correlated, the lower it is. A
/// penalty far above it settles the mask too early: with 0.1, as in ALPS, attention outputs of SmolLM2 end with up to 5 % more error.
/// One far below it only takes more steps.
private let lowQuantile = 0.05
/// The least value of the quantile: with fewer tokens than inputs, many eigenvalues are only what damping adds.
private let leastValue: Float = 0.01
/// What the fit may leave of a row's gradient, as a share of what it was at first; the loss is then off by about the square of that.
private let fitTolerance = 1e-3
/// How far the dense and the sparse copy of a row may be apart at the end, as a share of its norm.
private let farthest = 0.1

/// Prunes and fits at once: minimises `(w - x)^T G (w - x)` over rows x that keep as many weights as the pattern says, by ADMM with a
/// copy of x that has the pattern, then fits the weights on the mask where it came to rest (after ALPS, arXiv 2406.07831, section 3).
///
/// If the targets have a shift s, `2 (w - x) . s` is added, and the losses mean what ``TargetShift`` says.
///
/// The inputs are scaled to unit norm. The penalty of a row grows, the faster the more its mask changes, until that stays the same for
/// three steps and the copies are close; rows do not depend on each other. Needs three times the memory of G while its eigenvectors
/// are computed.
///
/// - Parameters:
///   - weight: `rows x columns`, dense.
///   - gram: `columns x columns`.
///   - shift: what the targets have beyond the outputs of the dense rows; nil if nothing.
///   - pattern: one with a count for each row or group.
///   - rows: those that are pruned, whole blocks of them; nil for all.
///   - write: takes the new weights, 0 where pruned, in blocks of rows, the first row first.
/// - Throws: bad input if LAPACK finds no eigenvectors of G; what `write` throws.
public func pruneByADMM(
  _ weight: LinearWeight, gram: GramMatrix, shift: TargetShift? = nil, pattern: SparsityPattern,
  options: ADMMOptions = ADMMOptions(), rows: Range<Int>? = nil, on device: Device,
  write: (borrowing Matrix) throws -> Void
) throws -> FoundMask<ADMMOutcome> {
  if case .matrix = pattern { preconditionFailure("ADMM needs a count for each row") }
  precondition(
    gram.columns == weight.columns && pattern.fits(columns: weight.columns) && weight.mask == nil)
  let spectrum = try Spectrum(gram, damping: options.damping, on: device)
  let system = FitSystem(gram, ReconstructOptions(damping: options.damping, tolerance: fitTolerance))
  var found = FoundMask<ADMMOutcome>(Mask(rows: weight.rows, columns: weight.columns, pattern: pattern))
  for rows in weight.blocks(of: rows) {
    var outcome = ADMMOutcome()
    var block = RowBlock(weight, nil, rows: rows, on: device)
    let shifts = RowShifts(shift, rows, of: weight, on: device)
    let (steps, open) = search(&block, spectrum, shifts, pattern, options, on: device)
    outcome.steps = steps.reduce(0, +)
    outcome.mostSteps = steps.max() ?? 0
    outcome.rowsAtLimit = open
    outcome.fit.add(fit(&block, system, shifts, on: device))
    block.storeKept(into: &found.mask)
    found.outcomes.blocks.append(outcome)
    try write(block.weights)
  }
  return found
}

/// The eigenvectors of G, damped, with its inputs scaled to unit norm.
private struct Spectrum: ~Copyable {
  /// The norm of every input.
  let scale: [Float]
  /// One eigenvector a row, that of the smallest value first.
  private let vectors: Matrix
  private(set) var values: [Float]

  init(_ gram: GramMatrix, damping: Double, on device: Device) throws {
    let columns = gram.columns
    let diagonal = gram.diagonal
    let added = damping * diagonal.reduce(0, +) / Double(max(1, columns))
    // A channel without input has no norm, and is on its own.
    let scale = diagonal.map { $0 + added > 0 ? Float(($0 + added).squareRoot()) : 1 }
    var vectors = gram.copy(on: device)
    do {
      let rows = vectors.mutableRowSpans
      device.forEach(columns) { index in
        var row = rows[index]
        for column in row.indices { row[column] /= scale[index] * scale[column] }
        row[index] = 1
      }
    }
    values = [Float](repeating: 0, count: columns)
    try EigenScratch.replaceByEigenvectors(&vectors, values: &values)
    self.vectors = vectors
    self.scale = scale
  }

  /// `output = input V^T`, or `input V` if `isInverse`, for the rows of V that are eigenvectors.
  func rotate(
    _ input: MutableRowSpans<Float>, isInverse: Bool, rows: Int, into output: MutableRowSpans<Float>,
    on device: Device
  ) {
    let columns = scale.count
    let vectors = vectors.elements.span
    let panels = columnPanels(of: columns)
    device.forEach(panels.count) { index in
      let panel = panels[index]
      let all = input[0..<rows]
      var whole = output[0..<rows]
      var part = whole.part(min(panel.lowerBound, whole.count)..<whole.count)
      let first = panel.lowerBound * (isInverse ? 1 : columns)
      multiply(
        rows: rows, columns: panel.count, inner: columns, Operand(all.span, stride: columns),
        Operand(vectors.extracting(first..<vectors.count), stride: columns, isTransposed: !isInverse),
        into: &part, stride: columns)
    }
  }
}

/// What LAPACK needs to find eigenvectors.
private enum EigenScratch {
  private static func sizes(_ columns: Int) -> (floats: Int, integers: Int) {
    (1 + 6 * columns + 2 * columns * columns, 3 + 5 * columns)
  }

  static func byteCount(columns: Int) -> Int {
    let sizes = sizes(columns)
    return sizes.floats * 4 + sizes.integers * 4
  }

  /// Replaces a symmetric matrix by its eigenvectors, one a row, and sets their values, the smallest first.
  static func replaceByEigenvectors(_ matrix: inout Matrix, values: inout [Float]) throws {
    let columns = matrix.columns
    let error = EspalierError.badInput(
      "LAPACK finds no eigenvectors of a Gram matrix of \(columns) inputs; use swap and reconstruct.")
    guard columns <= 32_000 else { throw error }
    let sizes = sizes(columns)
    var floats = Buffer<Float>(unfilled: sizes.floats)
    var integers = Buffer<Int32>(unfilled: sizes.integers)
    var (order, info) = (blasint(columns), blasint(0))
    var (floatCount, integerCount) = (blasint(sizes.floats), blasint(sizes.integers))
    // One thread, so that their number does not change the result.
    openblas_set_num_threads(1)
    matrix.elements.withUnsafeMutable { matrix in
      floats.withUnsafeMutable { floats in
        integers.withUnsafeMutable { integers in
          ssyevd_(
            "V", "L", &order, matrix.baseAddress, &order, &values, floats.baseAddress, &floatCount,
            integers.baseAddress, &integerCount, &info)
        }
      }
    }
    guard info == 0 else { throw error }
  }
}

/// Searches the masks of a block of rows; returns the steps of each, and how many had not come to rest at the limit.
private func search(
  _ block: inout RowBlock, _ spectrum: borrowing Spectrum, _ shifts: borrowing RowShifts,
  _ pattern: SparsityPattern, _ options: ADMMOptions, on device: Device
) -> (steps: [Int], open: Int) {
  let (rows, columns) = (block.rows.count, block.columns)
  let (values, scale) = (spectrum.values, spectrum.scale)
  var scaled = Matrix(unfilled: rows, columns: columns)
  // The sparse copy of the scaled weights where kept, the dual elsewhere.
  var copies = Matrix(rows: rows, columns: columns)
  // Row k of these belongs to the k-th open row.
  var sides = Matrix(rows: rows, columns: columns)
  var rotated = Matrix(rows: rows, columns: columns)
  var steps = [Int](repeating: 0, count: rows)
  var open = Array(0..<rows)
  let low = max(leastValue, values[Int(lowQuantile * Double(columns))])
  var penalties = [Float](repeating: Float(options.penalty) * low, count: rows)
  // Duals are scaled by the penalty; at first there are none.
  var shrinks = [Float](repeating: 0, count: rows)
  let kept = Double(pattern.kept(ofColumns: columns))
  var before = Mask(rows: rows, columns: columns, pattern: pattern)
  let spans = block.spans
  let all = SearchRows(
    kept: spans.kept, scaled: scaled.mutableRowSpans, copies: copies.mutableRowSpans,
    sides: sides.mutableRowSpans, rotated: rotated.mutableRowSpans)
  // The shifts of the scaled weights; no rows if there are none.
  var scaledShifts = Matrix(unfilled: shifts.values.rows, columns: columns)
  for row in 0..<scaledShifts.rows {
    for column in 0..<columns { scaledShifts[row, column] = shifts.values[row, column] / scale[column] }
  }
  let shiftRows = scaledShifts.rowSpans
  device.forEach(rows) { row in
    let w = spans.weights[row]
    var scaled = all.scaled[row]
    for column in w.indices { scaled[column] = w[column] * scale[column] }
  }
  all.keepLargest(open, pattern, shrinks: shrinks, on: device)
  for step in 0..<max(1, options.limit) {
    let (live, rho, dual) = (open, penalties, shrinks)
    device.forEach(live.count) { index in
      let row = live[index]
      var side = all.sides[index]
      espalier_admm_side(
        rho[row], dual[row], all.kept[row].span, all.scaled[row].span, all.copies[row].span, &side)
      // The dense copy is `(G + rho)^-1 (G w + s + rho (D - U))`, of which the weights w are left out here.
      if shiftRows.rows > 0 { espalier_add(shiftRows[row], &side) }
    }
    spectrum.rotate(all.sides, isInverse: false, rows: live.count, into: all.rotated, on: device)
    device.forEach(live.count) { index in
      var rotated = all.rotated[index]
      espalier_admm_divide(rho[live[index]], values.span, &rotated)
    }
    spectrum.rotate(all.rotated, isInverse: true, rows: live.count, into: all.sides, on: device)
    all.keepLargest(live, pattern, shrinks: dual, on: device)
    for row in live { (steps[row], shrinks[row]) = (step + 1, 1) }
    guard (step + 1) % stepsOfARound == 0 else { continue }
    open = live.indices.filter { index in
      let row = live[index]
      let moved = before.update(row: row, from: all.kept[row].span)
      let growth = growth(moved: Double(moved) / max(1, kept))
      penalties[row] *= growth
      shrinks[row] = 1 / growth
      return moved > 0
        || espalier_admm_gap(all.kept[row].span, all.sides[index].span, all.copies[row].span)
          > farthest * farthest
    }.map { live[$0] }
    if open.isEmpty { break }
  }
  return (steps, open.count)
}

/// The rows of a block while their masks are searched; `sides` and `rotated` have one for each open row.
private struct SearchRows: ~Escapable, Sendable {
  let kept: MutableRowSpans<UInt8>
  let scaled: MutableRowSpans<Float>
  let copies: MutableRowSpans<Float>
  let sides: MutableRowSpans<Float>
  let rotated: MutableRowSpans<Float>

  @_lifetime(copy kept, copy scaled, copy copies, copy sides, copy rotated)
  init(
    kept: MutableRowSpans<UInt8>, scaled: MutableRowSpans<Float>, copies: MutableRowSpans<Float>,
    sides: MutableRowSpans<Float>, rotated: MutableRowSpans<Float>
  ) {
    (self.kept, self.scaled, self.copies, self.sides, self.rotated) = (kept, scaled, copies, sides, rotated)
  }

  /// The last halves of a step: the new copies and duals of the open rows from their changes, the sides, and the largest of each row or
  /// group as the new mask.
  func keepLargest(_ open: [Int], _ pattern: SparsityPattern, shrinks: [Float], on device: Device) {
    let span = pattern.span(ofColumns: kept.columns)
    let keep = pattern.kept(ofColumns: span)
    device.forEach(
      open.count, scratch: { Buffer<UInt32>(unfilled: span) },
      { scratch, index in
        let row = open[index]
        var order = scratch.mutableSpan
        var kept = kept[row]
        var change = sides[index]
        var copy = copies[row]
        var magnitudes = rotated[index]
        espalier_admm_next(shrinks[row], kept.span, scaled[row].span, &change, &copy, &magnitudes)
        for start in stride(from: 0, to: kept.count, by: span) {
          var chosen = kept.part(start..<start + span)
          espalier_select_kept(keep, magnitudes.span.extracting(start..<start + span), &order, &chosen)
        }
      })
  }
}

extension Mask {
  /// Sets a row to bytes of 0 and 1; returns how many of its weights changed sides.
  fileprivate mutating func update(row: Int, from kept: Span<UInt8>) -> Int {
    let old = Array(bits[row * rowBytes..<(row + 1) * rowBytes])
    do {
      var bits = mutableRowSpans[row]
      packBits(kept, into: &bits)
    }
    return zip(old, bits[row * rowBytes..<(row + 1) * rowBytes]).reduce(0) {
      $0 + ($1.0 ^ $1.1).nonzeroBitCount
    }
  }
}
