import CKernels
import EspalierCore

/// One row of relaxed masks, which belongs to one thread at a time.
struct RelaxedRow: ~Escapable {
  private let spans: RelaxedRows.Spans
  /// Index among the rows.
  let index: Int

  @_lifetime(copy spans)
  init(_ spans: RelaxedRows.Spans, _ index: Int) {
    self.spans = spans
    self.index = index
  }

  var rowOfMatrix: Int { spans.firstRow + index }
  var columns: Int { spans.weight.columns }

  var x: MutableSpan<Float> { @_lifetime(copy self) get { spans.x[index] } }
  var c: MutableSpan<Float> { @_lifetime(copy self) get { spans.c[index] } }
  var product: MutableSpan<Float> { @_lifetime(copy self) get { spans.products[index] } }
  var vertex: MutableSpan<UInt64> { @_lifetime(copy self) get { spans.vertices[index] } }
  var frozen: MutableSpan<UInt64> { @_lifetime(copy self) get { spans.frozen[index] } }

  var state: RowState {
    get { spans.states[index][0] }
    nonmutating set {
      var state = spans.states[index]
      state[0] = newValue
    }
  }

  /// x, or the x with the highest bound if that is kept.
  var bestX: MutableSpan<Float> {
    @_lifetime(copy self)
    get { spans.best.rows > 0 ? spans.best[index] : spans.x[index] }
  }

  func loadWeights(into scratch: RowScratch.Spans) {
    var all = scratch.weights[0]
    var weights = all.part(0..<columns)
    spans.weight.load(rowOfMatrix..<rowOfMatrix + 1, into: &weights)
  }
}

/// Arrays that a thread needs for one row at a time.
struct RowScratch: ~Copyable {
  private var weights: Buffer<Float>
  private var scores: Buffer<Float>
  private var few: Buffer<Float>
  private var next: Buffer<UInt64>

  init(padded: Int) {
    weights = Buffer(count: padded)
    scores = Buffer(count: padded)
    few = Buffer(count: padded)
    next = Buffer(count: padded / 64)
  }

  static func byteCount(columns: Int) -> Int { paddedCount(columns) * 12 + paddedCount(columns) / 8 }

  /// The arrays, of one row each.
  struct Spans: ~Escapable {
    /// The weights, 0 after the last one.
    let weights: MutableRowSpans<Float>
    let scores: MutableRowSpans<Float>
    /// Scratch for the choice of a vertex.
    let few: MutableRowSpans<Float>
    /// The next vertex.
    let next: MutableRowSpans<UInt64>

    @_lifetime(&scratch)
    init(_ scratch: inout RowScratch) {
      let padded = scratch.weights.count
      let words = scratch.next.count
      weights = _overrideLifetime(scratch.weights.mutableRowSpans(columns: padded), copying: ())
      scores = _overrideLifetime(scratch.scores.mutableRowSpans(columns: padded), copying: ())
      few = _overrideLifetime(scratch.few.mutableRowSpans(columns: padded), copying: ())
      next = _overrideLifetime(scratch.next.mutableRowSpans(columns: words), copying: ())
    }
  }
}

// MARK: Steps

extension RelaxedRow {
  /// Takes a step to the vertex; the scores become those of the new x.
  func step(_ eta: Float, _ scratch: RowScratch.Spans) {
    var x = x
    var c = c
    var s = scratch.scores[0]
    let sums = espalier_fw_step(
      eta, scratch.weights[0].span, frozen.span, vertex.span, product.span, &x, &c, &s)
    state.loss = sums.loss
    state.inside = sums.inside
  }

  /// The scores of x.
  func score(_ scratch: RowScratch.Spans) {
    var s = scratch.scores[0]
    espalier_fw_scores(scratch.weights[0].span, frozen.span, c.span, &s)
  }

  /// The loss at the vertex.
  func vertexLoss(_ scratch: RowScratch.Spans) -> Double {
    espalier_fw_vertex_loss(scratch.weights[0].span, vertex.span, product.span)
  }

  /// Finds the best vertex for the scores.
  func chooseVertex(_ pattern: SparsityPattern, _ scratch: RowScratch.Spans) {
    var state = state
    var next = scratch.next[0]
    let s = scratch.scores[0]
    if case .groups(let keep, let of) = pattern {
      state.top = espalier_fw_largest_in_groups(columns, of, keep, s.span, frozen.span, &next)
    } else {
      var few = scratch.few[0]
      next.copy(frozen.span)
      state.top = espalier_fw_largest(state.budget, s.span, &state.guess, &few, &next)
    }
    self.state = state
  }

  /// Finds the vertex of the scores above a threshold.
  func chooseVertex(above threshold: Float, _ scratch: RowScratch.Spans) {
    var next = scratch.next[0]
    next.copy(frozen.span)
    state.top = espalier_fw_above(scratch.scores[0].span, threshold, state.ties, &next)
  }

  /// The vertex becomes the one that was chosen, and its changes are listed.
  ///
  /// - Parameter place: the row of the lists.
  func replaceVertex(_ changes: VertexChanges.Spans, _ place: Int, _ scratch: RowScratch.Spans) {
    var vertex = vertex
    var listed = changes.changes[place]
    var starts = changes.starts[place]
    let count = espalier_fw_changes(
      scratch.weights[0].span, scratch.next[0].span, &vertex, &listed, &starts)
    state.changes = count
    state.allChanges += count
  }

  /// The row has come to rest: its vertex stays as it is.
  func end(_ changes: VertexChanges.Spans) {
    var starts = changes.starts[index]
    for tile in starts.indices { starts[tile] = 0 }
    state.isActive = false
    state.changes = 0
  }

  /// Keeps x if it has the highest bound so far.
  func keepBest() {
    let bound = state.loss - state.gap
    guard spans.best.rows > 0, bound > state.bound else { return }
    state.bound = bound
    var best = spans.best[index]
    best.copy(x.span)
  }
}

// MARK: From and to masks

/// Arrays that a thread needs to choose the most salient weights, or the largest x, of one row.
struct SelectionScratch: ~Copyable {
  private var weights: Buffer<Float>
  private var ranks: Buffer<Float>
  private var order: Buffer<UInt32>
  private var chosen: Buffer<UInt8>

  init(columns: Int) {
    weights = Buffer(count: columns)
    ranks = Buffer(count: columns)
    order = Buffer(count: columns)
    chosen = Buffer(count: columns)
  }

  static func byteCount(columns: Int) -> Int { columns * (4 + 4 + 4 + 1) }

  struct Spans: ~Escapable {
    let weights: MutableRowSpans<Float>
    let ranks: MutableRowSpans<Float>
    let order: MutableRowSpans<UInt32>
    let chosen: MutableRowSpans<UInt8>

    @_lifetime(&scratch)
    init(_ scratch: inout SelectionScratch) {
      let columns = scratch.weights.count
      weights = _overrideLifetime(scratch.weights.mutableRowSpans(columns: columns), copying: ())
      ranks = _overrideLifetime(scratch.ranks.mutableRowSpans(columns: columns), copying: ())
      order = _overrideLifetime(scratch.order.mutableRowSpans(columns: columns), copying: ())
      chosen = _overrideLifetime(scratch.chosen.mutableRowSpans(columns: columns), copying: ())
    }

    /// The `keep` weights of the highest rank in every `span` of a row become bits of `set`.
    fileprivate func select(_ keep: Int, ofEvery span: Int, into set: inout MutableSpan<UInt64>) {
      let ranks = ranks[0]
      var allOrder = order[0]
      var allChosen = chosen[0]
      for start in stride(from: 0, to: ranks.count, by: span) {
        var order = allOrder.part(0..<span)
        var chosen = allChosen.part(start..<start + span)
        espalier_select_kept(keep, ranks.span.extracting(start..<start + span), &order, &chosen)
      }
      for word in set.indices { set[word] = 0 }
      for index in allChosen.indices { set[index / 64] |= UInt64(allChosen[index]) << UInt64(index % 64) }
    }
  }
}

func isMember(_ index: Int, of set: Span<UInt64>) -> Bool { set[index / 64] >> UInt64(index % 64) & 1 == 1 }

extension RelaxedRow {
  /// Freezes the `count` most salient entries of the vertex.
  func freeze(_ count: Int, _ scores: SaliencyScores, _ scratch: SelectionScratch.Spans) {
    guard count > 0 else { return }
    var w = scratch.weights[0]
    var ranks = scratch.ranks[0]
    var frozen = frozen
    spans.weight.load(rowOfMatrix..<rowOfMatrix + 1, into: &w)
    scores.score(w.span, into: &ranks)
    for index in ranks.indices {
      // A kept weight without any saliency still goes before the pruned ones.
      ranks[index] = isMember(index, of: vertex.span) ? max(ranks[index], .leastNormalMagnitude) : 0
    }
    scratch.select(count, ofEvery: columns, into: &frozen)
  }

  /// The vertex becomes the largest x of the row or of every group, frozen entries first.
  func round(_ pattern: SparsityPattern, _ scratch: SelectionScratch.Spans) {
    var ranks = scratch.ranks[0]
    var vertex = vertex
    let x = x
    for index in ranks.indices { ranks[index] = isMember(index, of: frozen.span) ? 2 : x[index] }
    if case .groups(let keep, let of) = pattern {
      scratch.select(keep, ofEvery: of, into: &vertex)
    } else {
      scratch.select(state.kept, ofEvery: columns, into: &vertex)
    }
  }
}
