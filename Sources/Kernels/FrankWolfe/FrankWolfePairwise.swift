import CKernels
import EspalierCore

/// Rows between two calls of `progress`.
private let rowsAtATime = 16

extension RelaxedRows {
  /// Pairwise steps of all rows, each for itself, from the masks on; an iteration is as many as a row has entries.
  mutating func movePairs(
    _ pattern: SparsityPattern, _ options: FrankWolfeOptions, _ progress: (_ iterations: Int) throws -> Void
  ) throws {
    let (limit, count) = (UInt64(options.iterations * columns), range.count)
    try movePairs(
      0..<count, startsAtVertex: true, { try progress(options.iterations * $0 / count) },
      {
        row, scratch, pairs, gram in
        let w = scratch.weights[0]
        let frozen = row.frozen
        var x = row.x
        var c = pairs.c[0]
        var floats = pairs.floats[0]
        var next = scratch.next[0]
        var state = row.state
        let end =
          if case .groups(let keep, let of) = pattern {
            espalier_fw_group_pairs(
              gram, w.span, frozen.span, of, keep, limit, options.tolerance, &x, &c, &floats)
          } else {
            espalier_fw_pairs(
              gram, w.span, frozen.span, state.budget, limit, options.tolerance, &x, &c, &floats, &next)
          }
        (state.loss, state.gap) = (end.loss, max(0, end.gap))
        state.iterations = (Int(end.steps) + row.columns - 1) / row.columns
        row.state = state
      })
  }

  /// Exact steps of single entries of a block's rows, at a price of mass that is the same for all rows.
  mutating func moveAtPrice(
    _ price: Float, _ block: Range<Int>, limit: Int, _ tolerance: Double,
    _ progress: (_ rows: Int) throws -> Void
  ) throws {
    try movePairs(block, startsAtVertex: false, progress) { row, scratch, pairs, gram in
      let w = scratch.weights[0]
      let frozen = row.frozen
      var x = row.x
      var own = row.c
      var c = pairs.c[0]
      var floats = pairs.floats[0]
      var state = row.state
      let end = espalier_fw_priced(
        gram, w.span, frozen.span, price, UInt64(limit), tolerance, &x, &c, &floats)
      (state.loss, state.gap, state.mass) = (end.loss, end.gap, 0)
      for index in own.indices {
        own[index] = Float(c[index])
        if !isMember(index, of: frozen.span) { state.mass += Double(x[index]) }
      }
      row.state = state
    }
  }

  /// x becomes the vertex, c its product.
  mutating func startAtVertices() {
    forEachRow { row, _ in
      row.startAtVertex()
      var c = row.c
      let product = row.product
      for index in product.indices { c[index] = product[index] }
    }
  }

  private mutating func movePairs(
    _ rows: Range<Int>, startsAtVertex: Bool, _ progress: (_ rows: Int) throws -> Void,
    _ body: @Sendable (RelaxedRow, RowScratch.Spans, PairScratch.Spans, espalier_gram) -> Void
  ) throws {
    let (device, padded, gram) = (device, padded, gram)
    let spans = spans
    for part in parts(of: rows.count, size: rowsAtATime) {
      try progress(part.lowerBound)
      gram.withKernel { gram in
        device.forEach(
          part.count, scratch: { PairScratch(padded: padded) },
          { scratch, index in
            let row = RelaxedRow(spans, rows.lowerBound + part.lowerBound + index)
            let pairs = PairScratch.Spans(&scratch)
            row.loadWeights(into: pairs.row)
            var c = pairs.c[0]
            if startsAtVertex { row.startAtVertex() }
            let from = startsAtVertex ? row.product : row.c
            for index in from.indices { c[index] = Double(from[index]) }
            body(row, pairs.row, pairs, gram)
          })
      }
    }
  }
}

extension RelaxedRow {
  /// x becomes the vertex.
  fileprivate func startAtVertex() {
    var x = x
    let vertex = vertex
    for index in 0..<columns { x[index] = isMember(index, of: vertex.span) ? 1 : 0 }
  }
}

/// Arrays that a thread needs for the pairwise steps of one row at a time.
struct PairScratch: ~Copyable {
  private var row: RowScratch
  private var c: Buffer<Double>
  private var floats: Buffer<Float>

  init(padded: Int) {
    row = RowScratch(padded: padded)
    c = Buffer(count: padded)
    floats = Buffer(count: Int(ESPALIER_FW_PAIR_SCRATCH) * padded)
  }

  static func byteCount(columns: Int) -> Int {
    RowScratch.byteCount(columns: columns)
      + paddedCount(columns) * (8 + 4 * Int(ESPALIER_FW_PAIR_SCRATCH))
  }

  struct Spans: ~Escapable {
    let row: RowScratch.Spans
    /// c in f64.
    let c: MutableRowSpans<Double>
    let floats: MutableRowSpans<Float>

    @_lifetime(&scratch)
    init(_ scratch: inout PairScratch) {
      let padded = scratch.c.count
      let floats = scratch.floats.count
      row = _overrideLifetime(RowScratch.Spans(&scratch.row), copying: ())
      c = _overrideLifetime(scratch.c.mutableRowSpans(columns: padded), copying: ())
      self.floats = _overrideLifetime(scratch.floats.mutableRowSpans(columns: floats), copying: ())
    }
  }
}
