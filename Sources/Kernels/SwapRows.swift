import CKernels
import EspalierCore

/// The search for the best swaps within rows, or within groups that are too large to be searched whole.
struct RowSwaps: Sendable {
  private let gram: GramMatrix
  private let span: Int
  private let channels: ChannelBounds

  /// - Parameter span: the run of consecutive weights inside which a swap may move; divides the columns.
  init(_ gram: GramMatrix, span: Int) {
    precondition(span > 0 && gram.columns % span == 0)
    self.gram = gram
    self.span = span
    channels = ChannelBounds(gram)
  }

  /// Refines rows until no swap lowers their loss, or `limit` swaps were made.
  ///
  /// - Parameters:
  ///   - weights, correlations, kept: `rows x columns`: the weights, `((1-m).w) G`, and the mask of 0 and 1, which is changed.
  ///   - heldOut: the Gram matrix of held-out inputs and `((1-m).w)` times it, `rows x columns`: a row stops ten swaps after its least
  ///     loss on them, and keeps the mask that had it.
  func refine(
    rows: Int, weights: UnsafePointer<Float>, correlations: UnsafePointer<Float>,
    kept: UnsafeMutablePointer<UInt8>, limit: Int?,
    heldOut: (gram: GramMatrix, correlations: UnsafePointer<Float>)? = nil
  ) -> [RowOutcome] {
    guard let heldOut else { return refine(rows, weights, correlations, kept, limit, heldOut: nil) }
    precondition(heldOut.gram.columns == gram.columns)
    return heldOut.gram.withKernel {
      refine(rows, weights, correlations, kept, limit, heldOut: ($0, heldOut.correlations))
    }
  }

  private func refine(
    _ rows: Int, _ weights: UnsafePointer<Float>, _ correlations: UnsafePointer<Float>,
    _ kept: UnsafeMutablePointer<UInt8>, _ limit: Int?,
    heldOut: (gram: espalier_gram, correlations: UnsafePointer<Float>)?
  ) -> [RowOutcome] {
    let (columns, span, limit) = (gram.columns, span, limit.map(UInt64.init) ?? .max)
    var outcomes = [RowOutcome](repeating: RowOutcome(), count: rows)
    outcomes.withUnsafeMutableBufferPointer { outcomes in
      gram.withKernel { gram in
        nonisolated(unsafe) let (gram, heldOut, outcomes) = (gram, heldOut, outcomes)
        nonisolated(unsafe) let (w, c, kept) = (weights, correlations, kept)
        // Two rows take turns: while one is searched, the rows of G that the other needs arrive.
        let pairs = parts(of: rows, size: 2)
        Threads.forEach(
          pairs.count, scratch: { SwapScratch(columns: columns, span: span, heldOut: heldOut?.gram) }
        ) { scratch, pair in
          for (index, row) in pairs[pair].enumerated() {
            let start = row * columns
            scratch.take(
              index, w: w + start, c: c + start, kept: kept + start,
              heldOut: heldOut.map { $0.correlations + start })
          }
          channels.withKernel(gram) { scratch.run($0, limit, count: pairs[pair].count) }
          for (index, row) in pairs[pair].enumerated() { outcomes[row] = scratch.outcome(index) }
        }
      }
    }
    return outcomes
  }
}

/// What the search knows of every channel: its norm, and how far it is correlated with any other at most.
struct ChannelBounds: Sendable {
  private let diagonal: [Double]
  private let norms: [Float]
  private let reach: [Float]

  init(_ gram: GramMatrix) {
    diagonal = gram.diagonal
    // Channels without input have no norm to divide by; a tiny one keeps every bound true.
    norms = diagonal.map { Float(max($0, 0).squareRoot()) + 1e-18 }
    reach = Self.largestCorrelations(gram, inverse: norms.map { 1 / $0 })
  }

  /// An upper bound of `|G_ij| / (norm_i norm_j)` over all j but i, for each i.
  private static func largestCorrelations(_ gram: GramMatrix, inverse: [Float]) -> [Float] {
    let columns = gram.columns
    let blocks = parts(of: columns, size: 64)
    let rooms = gram.isFactored ? 64 * columns : 0
    var largest = Buffer<Float>(count: blocks.count * columns)
    largest.withUnsafeMutable { largest in
      gram.withKernel { kernel in
        nonisolated(unsafe) let (kernel, largest) = (kernel, largest.baseAddress!)
        Threads.forEach(blocks.count, scratch: { Buffer<Float>(count: rooms) }) { room, index in
          let block = blocks[index]
          room.withUnsafeMutable { room in
            if kernel.elements == nil { gram.load(block, into: room.baseAddress!) }
            let rows = kernel.elements.map { $0 + block.lowerBound * columns }
            espalier_raise_correlations(
              columns, block.lowerBound, block.count, rows ?? UnsafePointer(room.baseAddress!), inverse,
              largest + index * columns)
          }
        }
      }
    }
    // The sums of a factor's products carry the rounding of as many terms as it has rows.
    let slack = gram.withKernel { 4e-6 + Float($0.rank) * 1.2e-7 }
    var reach = [Float](repeating: 0, count: columns)
    for block in blocks.indices {
      for column in blocks[block].lowerBound..<columns {
        reach[column] = max(reach[column], largest[block * columns + column])
      }
    }
    return reach.map { $0 * (1 + slack) + (gram.isFactored ? slack : 0) }
  }

  func withKernel(_ gram: espalier_gram, _ body: (UnsafePointer<espalier_swap_channels>) -> Void) {
    withUnsafePointer(to: gram) { gram in
      diagonal.withUnsafeBufferPointer { diagonal in
        norms.withUnsafeBufferPointer { norms in
          reach.withUnsafeBufferPointer { reach in
            let channels = espalier_swap_channels(
              gram: gram, diagonal: diagonal.baseAddress!, norms: norms.baseAddress!,
              reach: reach.baseAddress!)
            withUnsafePointer(to: channels, body)
          }
        }
      }
    }
  }
}

/// What one thread needs for two rows.
private struct SwapScratch: ~Copyable {
  private let columns: Int
  private let padded: Int
  private let span: Int
  private var rows = Buffer<espalier_swap_row>(count: 2)
  private var correlations: Buffer<Double>
  private var bytes: Buffer<UInt8>
  /// With held-out inputs: their Gram matrix, what is followed of each row, its correlations, and room for a row of a factored matrix.
  private var gram = Buffer<espalier_gram>(count: 1)
  private var held = Buffer<espalier_held_out>(count: 2)
  private var heldCorrelations: Buffer<Double>
  private var room: Buffer<Float>

  init(columns: Int, span: Int, heldOut: espalier_gram?) {
    self.columns = columns
    self.span = span
    padded = espalier_swap_padded(columns)
    correlations = Buffer(count: 2 * padded)
    bytes = Buffer(count: 2 * espalier_swap_scratch(columns, span))
    heldCorrelations = Buffer(count: heldOut == nil ? 0 : 2 * columns)
    room = Buffer(count: heldOut == nil ? 0 : columns)
    if let heldOut { gram[0] = heldOut }
  }

  mutating func take(
    _ index: Int, w: UnsafePointer<Float>, c: UnsafePointer<Float>, kept: UnsafeMutablePointer<UInt8>,
    heldOut: UnsafePointer<Float>?
  ) {
    let own = correlations.withUnsafeMutable { $0.baseAddress! + index * padded }
    for column in 0..<columns { own[column] = Double(c[column]) }
    rows[index] = espalier_swap_row()
    rows[index].w = w
    rows[index].c = own
    rows[index].kept = kept
    guard let heldOut else { return }
    let followed = heldCorrelations.withUnsafeMutable { $0.baseAddress! + index * columns }
    for column in 0..<columns { followed[column] = Double(heldOut[column]) }
    held[index].c = followed
    held[index].gram = gram.withUnsafe { UnsafePointer($0.baseAddress!) }
    held[index].room = room.withUnsafeMutable { $0.baseAddress! }
    rows[index].held = held.withUnsafeMutable { $0.baseAddress! + index }
  }

  mutating func run(_ channels: UnsafePointer<espalier_swap_channels>, _ limit: UInt64, count: Int) {
    rows.withUnsafeMutable { rows in
      bytes.withUnsafeMutable {
        espalier_swap_search(channels, span, limit, count, rows.baseAddress!, $0.baseAddress!)
      }
    }
  }

  borrowing func outcome(_ index: Int) -> RowOutcome {
    let row = rows[index].outcome
    let held = rows[index].held == nil ? nil : held[index]
    return RowOutcome(
      before: row.before, after: row.after, heldOutBefore: held?.before ?? 0, heldOutAfter: held?.least ?? 0,
      moves: Int(row.swaps), atLimit: row.limited != 0, stoppedByHeldOut: row.stopped != 0,
      evaluated: Int(row.evaluated), choices: Int(row.pairs))
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
