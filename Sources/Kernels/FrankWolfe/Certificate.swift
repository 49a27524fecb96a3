import EspalierCore
import Synchronization

/// Lower bounds of the loss of any mask with a pattern: they tell how far from the best mask another one is at most.
///
/// For any relaxed mask x, feasible or not, `f(M) >= f(x) + <grad f(x), M - x>` since the loss f is convex; the least of the right side
/// over all masks M of the pattern is at a vertex (the Frank-Wolfe gap: Jaggi, ICML 2013, section 2). Nothing in it depends on how x
/// was found: the bounds hold for every mask of the pattern, whatever refines it later.
public struct Certificate: Sendable, Equatable {
  /// One for each row, or a single one if the pattern has one budget for the matrix.
  public let lowerBounds: [Double]

  public init(lowerBounds: [Double]) { self.lowerBounds = lowerBounds }

  /// A lower bound of the loss of the matrix.
  public var lowerBound: Double { lowerBounds.reduce(0, +) }

  /// The share of a loss by which that of the best mask can be lower, at most.
  public func gap(ofLoss loss: Double) -> Double { loss > 0 ? max(0, (loss - lowerBound) / loss) : 0 }

  /// Bytes that ``rowLosses(_:gram:mask:on:)`` takes, without the pages of the weight and the Gram matrix.
  public static func lossesWorkingSet(rows: Int, columns: Int, threads: Int) -> Int {
    preciseByteCount(rows: rows, columns: columns)
      + max(columns * 4, preciseProductByteCount(columns: columns, threads: threads))
  }
}

/// `((1-m).w)^T G ((1-m).w)` of every row, in f64.
public func rowLosses(_ weight: LinearWeight, gram: GramMatrix, mask: Mask, on device: Device) -> [Double] {
  precondition(
    gram.columns == weight.columns && mask.rows == weight.rows && mask.columns == weight.columns
      && weight.mask == nil)
  let columns = weight.columns
  return parts(of: weight.rows, size: preciseRows).flatMap { rows in
    var pruned = Buffer<Double>(count: rows.count * columns)
    do {
      let pruned = pruned.mutableRowSpans(columns: columns)
      var row = Buffer<Float>(unfilled: columns)
      var w = row.mutableSpan
      for index in rows {
        weight.load(index..<index + 1, into: &w)
        var d = pruned[index - rows.lowerBound]
        for column in d.indices { d[column] = mask[index, column] ? 0 : Double(w[column]) }
      }
    }
    let product = preciseProduct(pruned, gram, on: device)
    return (0..<rows.count).map { preciseDot(pruned, product, row: $0, columns: columns) }
  }
}

/// Rows that are held in f64 at a time.
private let preciseRows = 64
/// Rows of G that are held at a time, and columns that one thread multiplies.
private let (preciseDepth, precisePanel) = (128, 512)

/// `D G` in f64 for rows D. One thread sums up each element, in the order of the rows of G.
private func preciseProduct(_ d: borrowing Buffer<Double>, _ gram: GramMatrix, on device: Device) -> Buffer<
  Double
> {
  let columns = gram.columns
  let rows = d.count / columns
  let panels = parts(of: columns, size: precisePanel)
  var product = Buffer<Double>(count: d.count)
  var slab = Matrix(unfilled: min(preciseDepth, columns), columns: columns)
  for depth in parts(of: columns, size: preciseDepth) {
    do {
      var loaded = slab.mutableRowSpans[0..<depth.count]
      gram.load(depth, into: &loaded)
    }
    let g = slab.rowSpans
    let d = d.span.extracting(depth.lowerBound..<d.count)
    let sums = product.mutableRowSpans(columns: columns)
    device.forEach(
      panels.count,
      scratch: { Buffer<Double>(count: min(preciseDepth, columns) * min(precisePanel, columns)) },
      { wide, index in
        let panel = panels[index]
        var widened = wide.mutableSpan
        for row in 0..<depth.count {
          for column in 0..<panel.count {
            widened[row * panel.count + column] = Double(g[row][panel.lowerBound + column])
          }
        }
        var all = sums[0..<rows]
        var part = all.part(panel.lowerBound..<all.count)
        multiply(
          rows: rows, columns: panel.count, inner: depth.count, Operand(d, stride: columns),
          Operand(widened.span, stride: panel.count), adding: depth.lowerBound > 0, into: &part,
          stride: columns
        )
      })
  }
  return product
}

private func preciseDot(
  _ d: borrowing Buffer<Double>, _ c: borrowing Buffer<Double>, row: Int, columns: Int
) -> Double {
  let (d, c) = (d.rowSpans(columns: columns)[row], c.rowSpans(columns: columns)[row])
  return (0..<columns).reduce(0.0) { $0 + d[$1] * c[$1] }
}

/// Bytes of the largest block of rows and of its product.
private func preciseByteCount(rows: Int, columns: Int) -> Int { min(preciseRows, rows) * columns * 16 }

/// Bytes that ``preciseProduct(_:_:on:)`` takes beside them.
private func preciseProductByteCount(columns: Int, threads: Int) -> Int {
  let depth = min(preciseDepth, columns)
  let panels = (columns + precisePanel - 1) / precisePanel
  return depth * columns * 4 + min(threads, panels) * depth * min(precisePanel, columns) * 8
}

extension RelaxedRows {
  /// Lower bounds of every row's loss from its best x, with c computed in f64; none is below 0.
  ///
  /// With d = (1 - x) . w, c = G d and s = w . c the bound is twice the sum of the s that the best mask of the linear model prunes,
  /// less d c.
  mutating func lowerBounds(_ pattern: SparsityPattern) -> [Double] {
    let span = pattern.span(ofColumns: columns)
    return preciseTerms { scores, row in
      let keep = if case .groups(let keep, _) = pattern { keep } else { row.kept }
      var sum = 0.0
      for start in stride(from: 0, to: scores.count, by: span) {
        sum += scores[start..<start + span].sorted().prefix(span - keep).reduce(0, +)
      }
      return sum
    }.map { max(0, $0) }
  }

  /// A lower bound of the loss of any mask that keeps as many weights of the matrix, from x, with c computed in f64.
  ///
  /// What the `kept` largest scores sum to is at most `kept t` and what each score exceeds t by, for any t.
  mutating func lowerBound(kept: Int, near threshold: Float) -> Double {
    let threshold = Double(threshold)
    let terms = preciseTerms { scores, _ in scores.reduce(0) { $0 + min($1, threshold) } }
    let taken = kept > 0 ? 2 * threshold * Double(kept) : 0
    return max(0, terms.reduce(0, +) - taken)
  }

  /// Bytes that the bounds take.
  static func boundsByteCount(rows: Int, columns: Int, threads: Int) -> Int {
    preciseByteCount(rows: rows, columns: columns)
      + max(
        min(threads, rows) * RowScratch.byteCount(columns: columns),
        preciseProductByteCount(columns: columns, threads: threads))
  }

  /// For every row twice what `share` makes of its scores s, less d c; all in f64.
  private mutating func preciseTerms(_ share: @Sendable ([Double], RowState) -> Double) -> [Double] {
    let columns = columns
    var terms = [Double](repeating: 0, count: range.count)
    for part in parts(of: range.count, size: preciseRows) {
      var pruned = Buffer<Double>(count: part.count * columns)
      do {
        let pruned = pruned.mutableRowSpans(columns: columns)
        forEachRow(part) { row, scratch in
          row.loadWeights(into: scratch)
          var d = pruned[row.index - part.lowerBound]
          let w = scratch.weights[0]
          let x = row.bestX
          for column in d.indices { d[column] = Double(w[column]) * (1 - Double(x[column])) }
        }
      }
      let product = preciseProduct(pruned, gram, on: device)
      let products = product.rowSpans(columns: columns)
      let found = Mutex(terms)
      forEachRow(part) { row, scratch in
        row.loadWeights(into: scratch)
        let w = scratch.weights[0]
        let c = products[row.index - part.lowerBound]
        let linear = share(c.indices.map { Double(w[$0]) * c[$0] }, row.state)
        found.withLock { $0[row.index] = 2 * linear }
      }
      terms = found.withLock { $0 }
      for row in part {
        terms[row] -= preciseDot(pruned, product, row: row - part.lowerBound, columns: columns)
      }
    }
    return terms
  }
}
