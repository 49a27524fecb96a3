import CKernels
import EspalierCore

/// The search for the best moves of the rows of a mask, each row until no move lowers its loss.
///
/// A move is a swap of a kept and a pruned weight of a row or, for N:M, of a group; or the step of a whole group to any other
/// pattern. Of swaps that are equally good the one with the lower kept weight, then the lower pruned weight is taken; of patterns
/// that of the lower group, then the lower number, whose bit i is set if weight i of the group is kept.
struct MoveSearch: ~Copyable {
  private enum Kind: Sendable {
    /// Swaps within runs of `span` weights: rows, or groups that are too large to be searched whole.
    case swaps(span: Int)
    /// Moves within groups.
    case groups(keep: UInt32, of: UInt32, whole: Int32)

    init(_ pattern: SparsityPattern, _ moves: SwapOptions.Moves, columns: Int) {
      if case .groups(let keep, let of) = pattern, of <= ESPALIER_LARGEST_GROUP {
        self = .groups(keep: UInt32(keep), of: UInt32(of), whole: moves == .group ? 1 : 0)
      } else {
        self = .swaps(span: pattern.span(ofColumns: columns))
      }
    }

    /// Bytes of scratch for one row.
    func scratch(columns: Int, hasHeldOut: Bool) -> Int {
      switch self {
      case .swaps(let span): espalier_swap_scratch(columns, span, hasHeldOut ? 1 : 0)
      case .groups(let keep, let of, let whole):
        espalier_group_scratch(columns, of, keep, whole, hasHeldOut ? 1 : 0)
      }
    }
  }

  private let kind: Kind
  private let gram: GramMatrix
  /// For swaps within rows.
  private let bounds: ChannelBounds?
  /// For groups: `columns x of`, G of every weight with those of its group.
  private let blocks: Buffer<Float>

  /// With moves of whole groups, a group has 1,000 patterns at most.
  init(_ gram: GramMatrix, _ pattern: SparsityPattern, moves: SwapOptions.Moves, on device: Device) {
    precondition(pattern.fits(columns: gram.columns))
    self.gram = gram
    kind = Kind(pattern, moves, columns: gram.columns)
    switch kind {
    case .swaps:
      bounds = ChannelBounds(gram, on: device)
      blocks = Buffer(count: 0)
    case .groups(let keep, let of, let whole):
      precondition(whole == 0 || Self.patterns(keep: Int(keep), of: Int(of)) <= ESPALIER_MOST_PATTERNS)
      bounds = nil
      blocks = Self.blocks(gram, of: Int(of), on: device)
    }
  }

  private static func blocks(_ gram: GramMatrix, of: Int, on device: Device) -> Buffer<Float> {
    var blocks = Buffer<Float>(count: gram.columns * of)
    do {
      let rows = blocks.mutableRowSpans(columns: of)
      gram.withKernel { kernel in
        device.forEach(gram.columns) { column in
          var row = rows[column]
          for other in 0..<of {
            row[other] = Float(
              withUnsafePointer(to: kernel) { espalier_gram_entry($0, column, column / of * of + other) })
          }
        }
      }
    }
    return blocks
  }

  /// Patterns of a group: `of` over `keep`.
  private static func patterns(keep: Int, of: Int) -> Int {
    (0..<min(keep, of - keep)).reduce(1) { $0 * (of - $1) / ($1 + 1) }
  }

  /// What one thread needs for two rows.
  private struct Scratch: ~Copyable {
    var correlations: Buffer<Double>
    var heldOut: Buffer<Double>
    var bytes: Buffer<UInt8>

    init(_ kind: Kind, columns: Int, hasHeldOut: Bool) {
      correlations = Buffer(count: 2 * columns)
      heldOut = Buffer(count: hasHeldOut ? 2 * columns : 0)
      bytes = Buffer(count: 2 * kind.scratch(columns: columns, hasHeldOut: hasHeldOut))
    }
  }

  /// Refines rows of a block until no move lowers their loss, or `limit` moves were made.
  ///
  /// - Parameters:
  ///   - rows: which rows of the block.
  ///   - correlations: `((1-m).w) G` of all rows of the block.
  ///   - heldOut: the Gram matrix of held-out inputs: a row stops ten moves after its least loss on them, and keeps the mask that
  ///     had it.
  ///   - heldOutCorrelations: `((1-m).w)` times it; no rows if there is none.
  ///   - starts: what the shifts of the targets add, for all rows of the block; the correlations include the shifts.
  func refine(
    _ block: inout RowBlock, rows: Range<Int>, correlations: borrowing Matrix, heldOut: GramMatrix? = nil,
    heldOutCorrelations: borrowing Matrix, starts: borrowing Buffer<espalier_swap_start>, limit: Int?,
    on device: Device
  ) -> [espalier_swap_outcome] {
    let columns = gram.columns
    precondition(block.columns == columns && (heldOut.map { $0.columns == columns } ?? true))
    var outcomes = Buffer<espalier_swap_outcome>(count: rows.count)
    do {
      let kind = kind
      let bounds = bounds
      let blocks = blocks.span
      let spans = block.spans
      let correlations = correlations.rowSpans
      let heldOutCorrelations = heldOutCorrelations.rowSpans
      let found = outcomes.mutableRowSpans(columns: 1)
      let starts = starts.span
      // Two rows take turns: while one is searched, the rows of G that the other needs arrive.
      let pairs = parts(of: rows.count, size: 2)
      gram.withKernel(and: heldOut) { gram, held in
        device.forEach(
          pairs.count, scratch: { Scratch(kind, columns: columns, hasHeldOut: heldOut != nil) }
        ) { scratch, index in
          let pair = pairs[index]
          let rows = rows.lowerBound + pair.lowerBound..<rows.lowerBound + pair.upperBound
          widen(correlations[rows], into: &scratch.correlations)
          if heldOut != nil { widen(heldOutCorrelations[rows], into: &scratch.heldOut) }
          var kept = spans.kept[rows]
          var found = found[pair]
          Self.search(
            kind, bounds, blocks, gram, held, limit: limit.map(UInt64.init) ?? .max, spans.weights[rows].span,
            &kept,
            scratch.correlations, scratch.heldOut, &scratch.bytes, starts.extracting(rows), &found)
        }
      }
    }
    return (0..<rows.count).map { outcomes[$0] }
  }

  private static func search(
    _ kind: Kind, _ bounds: ChannelBounds?, _ blocks: Span<Float>, _ gram: espalier_gram,
    _ held: espalier_gram,
    limit: UInt64, _ weights: Span<Float>, _ kept: inout MutableSpan<UInt8>,
    _ correlations: borrowing Buffer<Double>,
    _ heldOut: borrowing Buffer<Double>, _ scratch: inout Buffer<UInt8>, _ starts: Span<espalier_swap_start>,
    _ outcomes: inout MutableSpan<espalier_swap_outcome>
  ) {
    let c = correlations.span.extracting(first: weights.count)
    let heldC = heldOut.span.extracting(first: weights.count)
    var bytes = scratch.mutableSpan
    switch kind {
    case .swaps(let span):
      guard let bounds else { return }
      espalier_swap_search(
        gram, bounds.diagonal.span, bounds.norms.span, bounds.largestCorrelations.span, span, limit, weights,
        &kept, c, held,
        heldC, &bytes, starts, &outcomes)
    case .groups(let keep, let of, let whole):
      espalier_group_search(
        gram, of, keep, whole, blocks, limit, weights, &kept, c, held, heldC, &bytes, starts, &outcomes)
    }
  }

  /// Bytes that the search holds.
  static func byteCount(columns: Int, _ pattern: SparsityPattern) -> Int {
    if case .groups(_, let of) = pattern, of <= ESPALIER_LARGEST_GROUP { columns * of * 4 } else { 4 }
  }

  /// Bytes that making the search takes.
  static func beginningByteCount(columns: Int, _ pattern: SparsityPattern, rank: Int?, threads: Int) -> Int {
    let held = byteCount(columns: columns, pattern)
    return held > 4 ? held : ChannelBounds.workingSet(columns: columns, rank: rank, threads: threads)
  }

  /// Bytes that all threads together take while rows are refined.
  static func scratchByteCount(
    columns: Int, _ pattern: SparsityPattern, _ moves: SwapOptions.Moves, hasHeldOut: Bool, threads: Int
  ) -> Int {
    let bytes = Kind(pattern, moves, columns: columns).scratch(columns: columns, hasHeldOut: hasHeldOut)
    // A buffer without elements takes as much as one.
    return threads * 2 * (bytes + columns * 8 + (hasHeldOut ? columns * 8 : 8))
  }
}

/// The values in f64, from the first element on.
private func widen(_ values: Span<Float>, into wide: inout Buffer<Double>) {
  var target = wide.part(0..<values.count)
  espalier_f32_to_f64(values, &target)
}

extension GramMatrix {
  /// This matrix and another one as the C kernels take them, valid within `body`; without another one, its n is 0.
  fileprivate func withKernel<Result>(
    and other: GramMatrix?, _ body: (espalier_gram, espalier_gram) throws -> Result
  ) rethrows -> Result {
    try withKernel { own in
      guard let other else { return try body(own, espalier_gram()) }
      return try other.withKernel { try body(own, $0) }
    }
  }
}
