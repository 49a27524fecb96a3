import CKernels
import EspalierCore

/// How SparseGPT prunes.
public struct SparseGPTOptions: Sendable {
  /// What is added to the diagonal of G, as a share of its mean; ten times as much, again and again, while that is not enough.
  public var damping: Double
  /// Columns whose masks are chosen at a time, rounded to whole groups for N:M.
  public var blockColumns: Int

  public init(damping: Double = 0.01, blockColumns: Int = 128) {
    self.damping = damping
    self.blockColumns = blockColumns
  }

  /// Columns of a block.
  fileprivate func width(columns: Int, _ pattern: SparsityPattern) -> Int {
    let group = if case .groups(_, let of) = pattern { of } else { 1 }
    return min(columns, max(1, blockColumns / group) * group)
  }

  /// Rows that are held at once.
  fileprivate static func heldRows(_ rows: Int, _ pattern: SparsityPattern) -> Int {
    if case .matrix = pattern { rows } else { min(RowBlock.mostRows, rows) }
  }

  /// Bytes that ``pruneBySparseGPT(_:gram:pattern:options:on:write:)`` takes, without the pages of the weight and the Gram matrix and
  /// without the mask.
  ///
  /// - Parameters:
  ///   - pattern: nil if it is not known; then the one that takes the most.
  ///   - writing: bytes that `write` takes for some rows.
  public func workingSet(
    rows: Int, columns: Int, pattern: SparsityPattern?, threads: Int, writing: (_ rows: Int) -> Int
  ) -> Int {
    let pattern = pattern ?? .matrix(sparsity: 0)
    let held = Self.heldRows(rows, pattern)
    let width = width(columns: columns, pattern)
    let sets =
      switch pattern {
      case .groups: 0
      case .rows: min(threads, held)
      case .matrix: held
      }
    let choosing = held * width * 4 + Choice.byteCount(sets * width)
    let factor = columns * columns * 4
    return max(
      InverseFactor.byteCount(columns: columns), factor + held * columns * 5 + max(choosing, writing(held)))
  }
}

/// What SparseGPT did.
public struct SparseGPTOutcome: Sendable {
  public var mask: Mask
  /// The damping that was used: more than what was asked for if G was not positive definite with that.
  public var damping: Double
}

/// Prunes column by column, and lets the weights to the right make up for each that goes (SparseGPT, arXiv 2301.00774, algorithm 1).
///
/// Counts are exact. In a row, the block of columns [a, b) of d prunes `floor(n b / d) - floor(n a / d)` of the n weights that go, the
/// least of (w_j / U_jj)^2; with `.matrix` that is the count of the block over all rows, as in the published code, and all rows are held
/// at once. In a group of N:M the least are chosen when its first column is reached. Channels without input lose their weights.
///
/// With H = G and the damping, each step is exact for the loss `(w - v)^T H (w - v)` around weights w. If the targets have a shift s, the
/// loss `(w - v)^T H (w - v) + 2 (w - v) . s` is the same around `w + H^-1 s`, up to a constant: pruning starts from there.
///
/// - Parameters:
///   - weight: `rows x columns`, dense.
///   - gram: `columns x columns`.
///   - shift: what the targets have beyond the outputs of the dense rows; nil if nothing.
///   - rows: those that are pruned, whole blocks of them; nil for all, and with `.matrix`.
///   - write: takes the new weights, 0 where pruned, in blocks of rows, the first row first.
/// - Throws: bad input if no damping makes G positive definite; what `write` throws.
public func pruneBySparseGPT(
  _ weight: LinearWeight, gram: GramMatrix, shift: TargetShift? = nil, pattern: SparsityPattern,
  options: SparseGPTOptions = SparseGPTOptions(), rows: Range<Int>? = nil, on device: Device,
  write: (borrowing Matrix) throws -> Void
) throws -> SparseGPTOutcome {
  precondition(
    gram.columns == weight.columns && pattern.fits(columns: weight.columns) && weight.mask == nil)
  let curvature = try Curvature(gram, damping: options.damping, on: device)
  var mask = Mask(rows: weight.rows, columns: weight.columns, pattern: pattern)
  let isWhole = if case .matrix = pattern { true } else { false }
  for rows in isWhole ? [0..<weight.rows] : weight.blocks(of: rows) {
    var block = RowBlock(weight, nil, rows: rows, on: device)
    if shift != nil {
      for part in parts(of: rows.count, size: RowBlock.mostRows) {
        let all = rows.lowerBound + part.lowerBound..<rows.lowerBound + part.upperBound
        curvature.center(
          &block, part, gram, RowShifts(shift, all, of: weight, on: device), on: device)
      }
    }
    prune(&block, curvature, pattern, options, on: device)
    block.storeKept(into: &mask)
    try write(block.weights)
  }
  return SparseGPTOutcome(mask: mask, damping: curvature.damping)
}

/// The factor of the inverse Hessian, and the damping that it took.
private struct Curvature: ~Copyable {
  let factor: InverseFactor
  let damping: Double
  /// 0 for channels without input, else 1.
  let alive: [Float]
  /// What is added to the diagonal of G.
  private let added: Float

  init(_ gram: GramMatrix, damping: Double, on device: Device) throws {
    var diagonal = gram.diagonal
    alive = diagonal.map { $0 > 0 ? 1 : 0 }
    for channel in diagonal.indices where alive[channel] == 0 { diagonal[channel] = 1 }
    let mean = diagonal.reduce(0, +) / Double(max(1, diagonal.count))
    var share = damping
    while true {
      var hessian = gram.copy(on: device)
      for channel in diagonal.indices { hessian[channel, channel] = Float(diagonal[channel] + share * mean) }
      if let factor = InverseFactor(of: hessian, on: device) {
        self.factor = factor
        self.damping = share
        added = Float(share * mean)
        return
      }
      share = max(share * 10, 1e-6)
      guard share <= 1 else {
        throw EspalierError.badInput(
          "the Gram matrix is not positive definite even with its mean diagonal added; its inputs are broken."
        )
      }
    }
  }

  /// Adds `H^-1 s` to some rows of a block, given their shifts s.
  func center(
    _ block: inout RowBlock, _ rows: Range<Int>, _ gram: GramMatrix, _ shifts: borrowing RowShifts,
    on device: Device
  ) {
    let columns = block.columns
    var moved = Matrix(rows: rows.count, columns: columns)
    var rest = Matrix(rows: rows.count, columns: columns)
    // The second time for what the rounding of the factor left.
    for _ in 0..<2 {
      gram.multiply(moved, rows: rows.count, into: &rest, on: device)
      for row in 0..<rows.count {
        for column in 0..<columns {
          let left = shifts.values[row, column] - rest[row, column] - added * moved[row, column]
          rest[row, column] = alive[column] * left
        }
      }
      factor.solve(&rest, on: device)
      for index in 0..<rows.count * columns {
        let step = rest.elements[index]
        moved.elements[index] += step
      }
    }
    for row in 0..<rows.count {
      for column in 0..<columns {
        let step = moved[row, column]
        block.weights[rows.lowerBound + row, column] += step
      }
    }
  }
}

/// Prunes a block of rows, and sets what it keeps.
private func prune(
  _ block: inout RowBlock, _ curvature: borrowing Curvature, _ pattern: SparsityPattern,
  _ options: SparseGPTOptions, on device: Device
) {
  let (rows, columns) = (block.rows.count, block.columns)
  let (group, goesOfGroup) = if case .groups(let keep, let of) = pattern { (of, of - keep) } else { (0, 0) }
  let width = options.width(columns: columns, pattern)
  let goes = columns - pattern.kept(ofColumns: columns)
  var errors = Matrix(unfilled: rows, columns: width)
  let alive = curvature.alive
  let factor = curvature.factor.elements.elements.span
  let spans = block.spans
  let errorRows = errors.mutableRowSpans
  device.forEach(rows) { row in
    var w = spans.weights[row]
    for channel in w.indices { w[channel] *= alive[channel] }
  }
  for part in parts(of: columns, size: width) {
    let diagonal = factor.extracting(part.lowerBound * (columns + 1)..<factor.count)
    if group == 0 {
      // Multiplied first, so that the last block's count makes the total exact.
      let count = goes * part.upperBound / columns - goes * part.lowerBound / columns
      choose(part, count, diagonal, spans, rows: rows, pattern, on: device)
    }
    device.forEach(rows) { row in
      var allWeights = spans.weights[row]
      var allKept = spans.kept[row]
      var allErrors = errorRows[row]
      var w = allWeights.part(part)
      var kept = allKept.part(part)
      var errors = allErrors.part(0..<part.count)
      espalier_obs_row(columns, diagonal, group, goesOfGroup, &w, &kept, &errors)
    }
    let panels = columnPanels(of: columns - part.upperBound)
    device.forEach(panels.count) { index in
      let first = part.upperBound + panels[index].lowerBound
      let errors = errorRows[0..<rows]
      var all = spans.weights[0..<rows]
      var rest = all.part(first..<all.count)
      multiply(
        rows: rows, columns: panels[index].count, inner: part.count, factor: -1,
        Operand(errors.span, stride: width),
        Operand(factor.extracting(part.lowerBound * columns + first..<factor.count), stride: columns),
        adding: true, into: &rest, stride: columns)
    }
  }
}

/// Chooses the weights of a block of columns that go: `count` of every row, or as many over all rows with `.matrix`.
private func choose(
  _ part: Range<Int>, _ count: Int, _ diagonal: Span<Float>, _ spans: RowBlock.Spans, rows: Int,
  _ pattern: SparsityPattern, on device: Device
) {
  let rowsTogether = if case .matrix = pattern { rows } else { 1 }
  let sets = parts(of: rows, size: rowsTogether)
  device.forEach(
    sets.count, scratch: { Choice(count: rowsTogether * part.count) },
    { choice, index in
      Choice.choose(&choice.scores, &choice.order, &choice.chosen, sets[index], part, count, diagonal, spans)
    })
}

private struct Choice: ~Copyable {
  var scores: Buffer<Float>
  var order: Buffer<UInt32>
  var chosen: Buffer<UInt8>

  init(count: Int) {
    scores = Buffer(unfilled: count)
    order = Buffer(unfilled: count)
    chosen = Buffer(unfilled: count)
  }

  static func byteCount(_ count: Int) -> Int { count * 9 }

  static func choose(
    _ scores: inout Buffer<Float>, _ order: inout Buffer<UInt32>, _ chosen: inout Buffer<UInt8>,
    _ rows: Range<Int>, _ part: Range<Int>, _ count: Int, _ diagonal: Span<Float>, _ spans: RowBlock.Spans
  ) {
    let width = part.count
    let scoreRows = scores.mutableRowSpans(columns: width)
    for (index, row) in rows.enumerated() {
      var scores = scoreRows[index]
      let w = spans.weights[row]
      espalier_obs_scores(spans.weights.columns, diagonal, w.span.extracting(part), &scores)
    }
    var order = order.mutableSpan
    var all = chosen.mutableSpan
    let scores = scoreRows[0..<rows.count]
    espalier_select_kept(rows.count * (width - count), scores.span, &order, &all)
    for (index, row) in rows.enumerated() {
      var kept = spans.kept[row]
      var part = kept.part(part)
      part.copy(all.span.extracting(index * width..<(index + 1) * width))
    }
  }
}
