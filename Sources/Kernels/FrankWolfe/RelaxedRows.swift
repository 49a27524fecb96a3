import CKernels
import EspalierCore

/// What is known of a row while its mask is refined.
struct RowState {
  /// Kept weights, and those of them that are not frozen.
  var kept = 0
  var budget = 0
  /// Of the masks before and after, on the Gram matrix and on the held-out one.
  var lossBefore = 0.0
  var lossAfter = 0.0
  var heldOutBefore = 0.0
  var heldOutAfter = 0.0
  var isActive = true
  var iterations = 0
  /// Of the relaxed mask: its loss, the sums of s x and of the best vertex's s, and how much lower the optimum can be at most.
  var loss = 0.0
  var inside = 0.0
  var top = 0.0
  var gap = Double.infinity
  /// Entries that entered or left the vertex in the last iteration, and in all.
  var changes = 0
  var allChanges = 0
  /// If all rows share one budget: the sum of x that is not frozen, values equal to the threshold, and how many of them the row may
  /// take.
  var mass = 0.0
  var equal = 0
  var ties = 0
  /// The largest `loss - gap` of any iteration.
  var bound = -Double.infinity
  var guess = espalier_fw_guess()

  func isBetter(onHeldOut: Bool) -> Bool {
    onHeldOut ? heldOutAfter < heldOutBefore : lossAfter < lossBefore
  }
}

/// Relaxed masks of consecutive rows of a weight; Sources/CKernels/include/frankwolfe.h describes their arrays.
struct RelaxedRows: ~Copyable {
  let weight: LinearWeight
  let gram: GramMatrix
  let device: Device
  /// Where the rows are in the matrix.
  let range: Range<Int>
  let columns: Int
  let padded: Int
  private var x: Buffer<Float>
  private var c: Buffer<Float>
  /// The x with the highest bound so far; empty if nobody asks for it.
  private var best: Buffer<Float>
  /// The products of the vertices with G.
  private var products: Matrix
  private var vertices: Buffer<UInt64>
  private var frozen: Buffer<UInt64>
  private(set) var states: Buffer<RowState>

  init(_ weight: LinearWeight, gram: GramMatrix, rows: Range<Int>, keepsBest: Bool, on device: Device) {
    (self.weight, self.gram, self.device, range) = (weight, gram, device, rows)
    columns = weight.columns
    padded = paddedCount(columns)
    x = Buffer(count: rows.count * padded)
    c = Buffer(count: rows.count * padded)
    best = Buffer(count: keepsBest ? rows.count * padded : 0)
    products = Matrix(rows: rows.count, columns: columns)
    vertices = Buffer(count: rows.count * padded / 64)
    frozen = Buffer(count: rows.count * padded / 64)
    states = Buffer(count: rows.count)
  }

  /// Bytes of the arrays.
  static func byteCount(rows: Int, columns: Int, keepsBest: Bool) -> Int {
    let padded = paddedCount(columns)
    return rows * (padded * (keepsBest ? 12 : 8) + columns * 4 + padded / 4 + MemoryLayout<RowState>.stride)
  }

  /// Parts of the rows that are multiplied with G together.
  var blocks: [Range<Int>] { parts(of: range.count, size: RowBlock.mostRows) }

  /// The rows of all arrays, for threads that each have rows of their own.
  struct Spans: ~Escapable, Sendable {
    let weight: LinearWeight
    let firstRow: Int
    let x: MutableRowSpans<Float>
    let c: MutableRowSpans<Float>
    let best: MutableRowSpans<Float>
    let products: MutableRowSpans<Float>
    let vertices: MutableRowSpans<UInt64>
    let frozen: MutableRowSpans<UInt64>
    let states: MutableRowSpans<RowState>

    @_lifetime(&rows)
    init(_ rows: inout RelaxedRows) {
      (weight, firstRow) = (rows.weight, rows.range.lowerBound)
      let (padded, words) = (rows.padded, rows.padded / 64)
      // They are arrays that do not overlap.
      x = _overrideLifetime(rows.x.mutableRowSpans(columns: padded), copying: ())
      c = _overrideLifetime(rows.c.mutableRowSpans(columns: padded), copying: ())
      best = _overrideLifetime(rows.best.mutableRowSpans(columns: padded), copying: ())
      products = _overrideLifetime(rows.products.mutableRowSpans, copying: ())
      vertices = _overrideLifetime(rows.vertices.mutableRowSpans(columns: words), copying: ())
      frozen = _overrideLifetime(rows.frozen.mutableRowSpans(columns: words), copying: ())
      states = _overrideLifetime(rows.states.mutableRowSpans(columns: 1), copying: ())
    }
  }

  var spans: Spans {
    @_lifetime(&self)
    mutating get { Spans(&self) }
  }

  /// Calls `body` once for each of some rows, on all threads.
  mutating func forEachRow(_ rows: Range<Int>, _ body: @Sendable (RelaxedRow, RowScratch.Spans) -> Void) {
    let (device, padded) = (device, padded)
    let spans = spans
    device.forEach(
      rows.count, scratch: { RowScratch(padded: padded) },
      { scratch, index in
        body(RelaxedRow(spans, rows.lowerBound + index), RowScratch.Spans(&scratch))
      })
  }

  /// Calls `body` once for each row, on all threads.
  mutating func forEachRow(_ body: @Sendable (RelaxedRow, RowScratch.Spans) -> Void) {
    forEachRow(0..<range.count, body)
  }

  /// The sum over some rows.
  func sum(_ rows: Range<Int>, _ value: (RowState) -> Double) -> Double {
    rows.reduce(0) { $0 + value(states[$1]) }
  }

  /// The sum over all rows, block by block.
  func sum(_ value: (RowState) -> Double) -> Double { blocks.reduce(0) { $0 + sum($1, value) } }

  func hasRow(in rows: Range<Int>, where predicate: (RowState) -> Bool) -> Bool {
    rows.contains { predicate(states[$0]) }
  }

  mutating func update(_ row: Int, _ change: (inout RowState) -> Void) { change(&states[row]) }

  /// x of all rows, `rows x columns`.
  mutating func relaxed() -> [Float] {
    let columns = columns
    let x = x.rowSpans(columns: padded)
    return (0..<range.count).flatMap { row in (0..<columns).map { x[row][$0] } }
  }
}

// MARK: Products with the Gram matrix

/// From this share of changed entries on a dense product is faster.
private let denseShare = 0.3
/// Columns of G that one thread adds at a time: with the rows of a tile they fit the second-level cache.
private let panelColumns = 512

/// What enters and leaves the vertices of a block of rows.
struct VertexChanges: ~Copyable {
  /// The most changes of a row that are listed.
  let capacity: Int
  /// Tiles of rows of G.
  let tiles: Int
  private var changes: Buffer<espalier_fw_change>
  private var starts: Buffer<UInt32>

  init(rows: Int, columns: Int) {
    capacity = Self.capacity(columns)
    tiles = Self.tiles(columns)
    changes = Buffer(count: rows * capacity)
    starts = Buffer(count: rows * (tiles + 1))
  }

  private static func capacity(_ columns: Int) -> Int { columns / 2 }
  private static func tiles(_ columns: Int) -> Int {
    (columns + Int(ESPALIER_FW_TILE) - 1) / Int(ESPALIER_FW_TILE)
  }

  static func byteCount(rows: Int, columns: Int) -> Int {
    rows * (capacity(columns) * MemoryLayout<espalier_fw_change>.stride + (tiles(columns) + 1) * 4)
  }

  struct Spans: ~Escapable, Sendable {
    let changes: MutableRowSpans<espalier_fw_change>
    let starts: MutableRowSpans<UInt32>

    @_lifetime(&lists)
    init(_ lists: inout VertexChanges) {
      // They are lists that do not overlap.
      changes = _overrideLifetime(lists.changes.mutableRowSpans(columns: lists.capacity), copying: ())
      starts = _overrideLifetime(lists.starts.mutableRowSpans(columns: lists.tiles + 1), copying: ())
    }
  }

  /// Adds the changes of a block to its products with G.
  ///
  /// - Parameters:
  ///   - rows: as many as the block has.
  ///   - backwards: whether G is read from its last row on.
  func add(
    to products: MutableRowSpans<Float>, rows: Range<Int>, _ gram: GramMatrix, backwards: Bool,
    on device: Device
  ) {
    let (columns, capacity, tiles) = (gram.columns, capacity, tiles)
    let panels = parts(of: columns, size: panelColumns)
    let changes = changes.span.extracting(first: rows.count * capacity)
    let starts = starts.span.extracting(first: rows.count * (tiles + 1))
    gram.withElements(on: device) { elements in
      device.forEach(panels.count) { index in
        // The next iteration begins with what was read last, which is still in the cache.
        let panel = panels[backwards ? panels.count - 1 - index : index]
        var block = products[rows]
        espalier_fw_apply(
          columns, panel.lowerBound, panel.count, backwards ? 1 : 0, elements.span, capacity, changes, tiles,
          starts, &block)
      }
    }
  }
}

extension RelaxedRows {
  /// Brings the products of a block's vertices with G up to date: from the changes, or from scratch if there are many.
  mutating func updateProducts(
    _ block: Range<Int>, _ changes: borrowing VertexChanges, refresh: Bool, backwards: Bool
  ) {
    let count = sum(block) { Double($0.changes) }
    let capacity = changes.capacity
    if refresh || gram.isFactored || count > denseShare * Double(block.count * columns)
      || hasRow(in: block, where: { $0.changes > capacity })
    {
      gram.multiply(outside(block), rows: block.count, into: &products, at: block.lowerBound, on: device)
    } else if count > 0 {
      let (gram, device) = (gram, device)
      changes.add(to: spans.products, rows: block, gram, backwards: backwards, on: device)
    }
  }

  /// `(1 - v) . w` for the vertices v of a block.
  private mutating func outside(_ block: Range<Int>) -> Matrix {
    var outside = Matrix(unfilled: block.count, columns: columns)
    do {
      let outside = outside.mutableRowSpans
      forEachRow(block) { row, scratch in
        row.loadWeights(into: scratch)
        var d = outside[row.index - block.lowerBound]
        espalier_fw_outside(scratch.weights[0].span, row.vertex.span, &d)
      }
    }
    return outside
  }

  /// Computes the products of all vertices, and their losses as those before.
  fileprivate mutating func multiplyStart(heldOut: GramMatrix?) {
    for block in blocks {
      let outside = outside(block)
      note(gram.quadraticForms(outside, rows: block.count, on: device), block, \.lossBefore)
      if let heldOut {
        note(heldOut.quadraticForms(outside, rows: block.count, on: device), block, \.heldOutBefore)
      }
      gram.multiply(outside, rows: block.count, into: &products, at: block.lowerBound, on: device)
    }
  }

  private mutating func note(
    _ losses: [Double], _ block: Range<Int>, _ path: WritableKeyPath<RowState, Double>
  ) {
    for (row, loss) in zip(block, losses) { states[row][keyPath: path] = loss }
  }
}

// MARK: From and to masks

extension RelaxedRows {
  /// Starts at a mask, with the `alpha` most salient of the weights that each row keeps frozen.
  ///
  /// - Parameter scores: what orders the kept weights; nil freezes none.
  mutating func start(_ mask: Mask, _ options: FrankWolfeOptions, _ scores: SaliencyScores?) {
    let (count, columns, device) = (range.count, columns, device)
    do {
      let spans = spans
      device.forEach(
        count, scratch: { SelectionScratch(columns: columns) },
        { scratch, index in
          let row = RelaxedRow(spans, index)
          var vertex = row.vertex
          let bits = mask.row(row.rowOfMatrix)
          for byte in bits.indices { vertex[byte / 8] |= UInt64(bits[byte]) << UInt64(byte % 8 * 8) }
          let kept = mask.keptCount(row: row.rowOfMatrix)
          let fixed = scores == nil ? 0 : min(kept, Int(options.alpha * Double(kept)))
          if let scores { row.freeze(fixed, scores, SelectionScratch.Spans(&scratch)) }
          row.state = RowState(kept: kept, budget: kept - fixed)
        })
    }
    multiplyStart(heldOut: options.heldOut)
  }

  /// The vertices become the largest x of every row or group, frozen entries first.
  mutating func round(_ pattern: SparsityPattern) {
    let (count, columns, device) = (range.count, columns, device)
    let spans = spans
    device.forEach(
      count, scratch: { SelectionScratch(columns: columns) },
      { scratch, index in
        RelaxedRow(spans, index).round(pattern, SelectionScratch.Spans(&scratch))
      })
  }

  /// Takes the vertices of the rows, or those that are better, into the mask.
  mutating func take(
    into mask: inout Mask, heldOut: GramMatrix?, onlyImproves: Bool, _ outcome: inout FrankWolfeOutcome
  ) {
    for block in blocks {
      let outside = outside(block)
      note(gram.quadraticForms(outside, rows: block.count, on: device), block, \.lossAfter)
      if let heldOut {
        note(heldOut.quadraticForms(outside, rows: block.count, on: device), block, \.heldOutAfter)
      }
    }
    let firstRow = range.lowerBound
    let vertices = vertices.rowSpans(columns: padded / 64)
    let bits = mask.mutableRowSpans
    for index in 0..<range.count {
      var state = states[index]
      if !onlyImproves || state.isBetter(onHeldOut: heldOut != nil) {
        var row = bits[firstRow + index]
        let vertex = vertices[index]
        for byte in row.indices {
          row[byte] = UInt8(truncatingIfNeeded: vertex[byte / 8] >> UInt64(byte % 8 * 8))
        }
      } else {
        (state.lossAfter, state.heldOutAfter) = (state.lossBefore, state.heldOutBefore)
        outcome.rowsKept += 1
      }
      outcome.add(state, hasHeldOut: heldOut != nil)
    }
  }
}

/// `count` rounded up to whole words of 64 bits.
func paddedCount(_ count: Int) -> Int { (count + 63) / 64 * 64 }
