import CKernels
import EspalierCore

/// A search for the best moves of the rows of a mask, each row until no move lowers its loss.
protocol RowSearch: ~Copyable {
  var columns: Int { get }
  /// Bytes of room for one row.
  var rowBytes: Int { get }
  /// Runs `body` with the search itself, in which no row makes more than `limit` moves.
  func withKernel<Result>(limit: UInt64, _ body: (RowKernel) -> Result) -> Result
}

/// Refines `count` rows, 1 or 2, in ``RowSearch/rowBytes`` of room for each.
typealias RowKernel =
  @Sendable (
    _ count: Int, _ rows: UnsafeMutablePointer<espalier_swap_row>, _ room: UnsafeMutableRawPointer
  ) -> Void

extension RowSearch where Self: ~Copyable {
  /// Refines rows until no move lowers their loss, or `limit` moves were made.
  ///
  /// - Parameters:
  ///   - weights, correlations, kept: `rows x columns`: the weights, `((1-m).w) G`, and the mask of 0 and 1, which is changed.
  ///   - heldOut: the Gram matrix of held-out inputs and `((1-m).w)` times it, `rows x columns`: a row stops ten moves after
  ///     its least loss on them, and keeps the mask that had it.
  func refine(
    rows: Int, weights: UnsafePointer<Float>, correlations: UnsafePointer<Float>,
    kept: UnsafeMutablePointer<UInt8>, limit: Int?,
    heldOut: (gram: GramMatrix, correlations: UnsafePointer<Float>)? = nil
  ) -> [RowOutcome] {
    guard let heldOut else { return refine(rows, weights, correlations, kept, limit, heldOut: nil) }
    precondition(heldOut.gram.columns == columns)
    return heldOut.gram.withKernel {
      refine(rows, weights, correlations, kept, limit, heldOut: ($0, heldOut.correlations))
    }
  }

  private func refine(
    _ rows: Int, _ weights: UnsafePointer<Float>, _ correlations: UnsafePointer<Float>,
    _ kept: UnsafeMutablePointer<UInt8>, _ limit: Int?,
    heldOut: (gram: espalier_gram, correlations: UnsafePointer<Float>)?
  ) -> [RowOutcome] {
    let (columns, bytes) = (columns, rowBytes)
    var outcomes = [RowOutcome](repeating: RowOutcome(), count: rows)
    outcomes.withUnsafeMutableBufferPointer { outcomes in
      withKernel(limit: limit.map(UInt64.init) ?? .max) { kernel in
        nonisolated(unsafe) let (heldOut, outcomes) = (heldOut, outcomes)
        nonisolated(unsafe) let (w, c, kept) = (weights, correlations, kept)
        // Two rows take turns: while one is searched, the rows of G that the other needs arrive.
        let pairs = parts(of: rows, size: 2)
        Threads.forEach(
          pairs.count, scratch: { PairOfRows(columns: columns, bytes: bytes, heldOut: heldOut?.gram) }
        ) { pair, index in
          for (place, row) in pairs[index].enumerated() {
            let start = row * columns
            pair.take(
              place, w: w + start, c: c + start, kept: kept + start,
              heldOut: heldOut.map { $0.correlations + start })
          }
          pair.run(pairs[index].count, kernel)
          for (place, row) in pairs[index].enumerated() { outcomes[row] = pair.outcome(place) }
        }
      }
    }
    return outcomes
  }
}

/// What one thread needs for two rows.
private struct PairOfRows: ~Copyable {
  private let columns: Int
  private let padded: Int
  private var rows = Buffer<espalier_swap_row>(count: 2)
  private var correlations: Buffer<Double>
  private var room: Buffer<UInt8>
  /// With held-out inputs: their Gram matrix, what is followed of each row, its correlations, and room for a row of a factored matrix.
  private var gram = Buffer<espalier_gram>(count: 1)
  private var held = Buffer<espalier_held_out>(count: 2)
  private var heldCorrelations: Buffer<Double>
  private var gramRow: Buffer<Float>

  init(columns: Int, bytes: Int, heldOut: espalier_gram?) {
    self.columns = columns
    padded = espalier_swap_padded(columns)
    correlations = Buffer(count: 2 * padded)
    room = Buffer(count: 2 * bytes)
    heldCorrelations = Buffer(count: heldOut == nil ? 0 : 2 * columns)
    gramRow = Buffer(count: heldOut == nil ? 0 : columns)
    if let heldOut { gram[0] = heldOut }
  }

  mutating func take(
    _ place: Int, w: UnsafePointer<Float>, c: UnsafePointer<Float>, kept: UnsafeMutablePointer<UInt8>,
    heldOut: UnsafePointer<Float>?
  ) {
    let own = correlations.withUnsafeMutable { $0.baseAddress! + place * padded }
    for column in 0..<columns { own[column] = Double(c[column]) }
    rows[place] = espalier_swap_row()
    rows[place].w = w
    rows[place].c = own
    rows[place].kept = kept
    guard let heldOut else { return }
    let followed = heldCorrelations.withUnsafeMutable { $0.baseAddress! + place * columns }
    for column in 0..<columns { followed[column] = Double(heldOut[column]) }
    held[place].c = followed
    held[place].gram = gram.withUnsafe { UnsafePointer($0.baseAddress!) }
    held[place].room = gramRow.withUnsafeMutable { $0.baseAddress! }
    rows[place].held = held.withUnsafeMutable { $0.baseAddress! + place }
  }

  mutating func run(_ count: Int, _ kernel: RowKernel) {
    rows.withUnsafeMutable { rows in
      room.withUnsafeMutable { kernel(count, rows.baseAddress!, UnsafeMutableRawPointer($0.baseAddress!)) }
    }
  }

  borrowing func outcome(_ place: Int) -> RowOutcome {
    let found = rows[place].outcome
    let held = rows[place].held == nil ? nil : held[place]
    return RowOutcome(
      before: found.before, after: found.after, heldOutBefore: held?.before ?? 0,
      heldOutAfter: held?.least ?? 0, moves: Int(found.moves), atLimit: found.limited != 0,
      stoppedByHeldOut: found.stopped != 0, evaluated: Int(found.evaluated), choices: Int(found.choices))
  }
}

/// What refining one row did.
struct RowOutcome: Sendable {
  /// `((1-m).w)^T G ((1-m).w)`, after the moves as they added up.
  var before = 0.0
  var after = 0.0
  /// The same on held-out inputs, where there are any.
  var heldOutBefore = 0.0
  var heldOutAfter = 0.0
  var moves = 0
  /// Whether it stopped at the limit, or where its loss on held-out inputs no longer fell.
  var atLimit = false
  var stoppedByHeldOut = false
  /// Moves whose change in loss was computed, and all that there were to choose from.
  var evaluated = 0
  var choices = 0
}
