import CKernels
import COpenBLAS
import EspalierCore

/// What refining one matrix by swaps did.
public struct SwapOutcome: Sendable {
  /// Sum over the rows of `((1-m).w)^T G ((1-m).w)`.
  public var lossBefore = 0.0
  public var lossAfter = 0.0
  public var swaps = 0
  /// The most swaps of one row.
  public var mostSwaps = 0
  /// Rows that stopped at the limit and not at a local optimum.
  public var rowsAtLimit = 0
  /// Pairs whose change in loss was computed, and all pairs that there were to choose from.
  public var evaluatedPairs = 0
  public var allPairs = 0
}

/// Rows that are held at a time; their first correlations with G come from one product.
private let rowBlock = 256
/// Columns of G that one thread multiplies at a time.
private let columnPanel = 512

/// Refines the mask by best-improvement 1-swaps, row by row, to a local optimum or to `options.limit` swaps a row
/// (SparseSwaps, arXiv 2512.10922, algorithm 1).
///
/// A swap prunes a kept weight and restores a pruned one of the same row or, for N:M, of the same group; counts stay exact.
///
/// - Parameters:
///   - weight: `rows x columns`, without a mask of its own.
///   - gram: `columns x columns`.
public func refineBySwaps(
  _ weight: LinearWeight, gram: GramMatrix, mask: inout Mask, options: SwapOptions
) -> SwapOutcome {
  precondition(
    gram.columns == weight.columns && mask.rows == weight.rows && mask.columns == weight.columns
      && weight.mask == nil)
  var outcome = SwapOutcome()
  let limit = options.limit ?? Int.max
  let channels = ChannelBounds(gram)
  var block = SwapBlock(rows: min(rowBlock, weight.rows), columns: weight.columns)
  for rows in parts(of: weight.rows, size: rowBlock) {
    block.load(weight, rows: rows, mask: mask)
    gram.withElements { gram in
      block.correlate(gram, rows: rows.count)
      block.swap(
        gram, channels, rows: rows.count, span: mask.pattern.span(ofColumns: weight.columns), limit: limit)
    }
    block.store(rows: rows, mask: &mask)
    for row in block.outcomes[..<rows.count] {
      outcome.lossBefore += row.before
      outcome.lossAfter += row.after
      outcome.swaps += Int(row.counts.swaps)
      outcome.mostSwaps = max(outcome.mostSwaps, Int(row.counts.swaps))
      outcome.rowsAtLimit += Int(row.counts.swaps) >= limit ? 1 : 0
      outcome.evaluatedPairs += Int(row.counts.evaluated)
      outcome.allPairs += Int(row.counts.pairs)
    }
  }
  return outcome
}

/// The loss of a mask: the sum over all rows of `((1-m).w)^T G ((1-m).w)`.
public func maskLoss(_ weight: LinearWeight, gram: GramMatrix, mask: Mask) -> Double {
  var mask = mask
  return refineBySwaps(weight, gram: gram, mask: &mask, options: SwapOptions(limit: 0)).lossBefore
}

private struct RowOutcome {
  var before = 0.0
  var after = 0.0
  var counts = espalier_swap_counts()
}

/// Weights, masks and correlations of a block of rows.
private struct SwapBlock: ~Copyable {
  let columns: Int
  var weights: Matrix
  var pruned: Matrix
  var correlations: Matrix
  var kept: Buffer<UInt8>
  var outcomes: [RowOutcome]

  init(rows: Int, columns: Int) {
    self.columns = columns
    weights = Matrix(rows: rows, columns: columns)
    pruned = Matrix(rows: rows, columns: columns)
    correlations = Matrix(rows: rows, columns: columns)
    kept = Buffer(count: rows * columns)
    outcomes = [RowOutcome](repeating: RowOutcome(), count: rows)
  }

  mutating func load(_ weight: LinearWeight, rows: Range<Int>, mask: Mask) {
    let columns = columns
    weights.elements.withUnsafeMutable { w in
      pruned.elements.withUnsafeMutable { d in
        kept.withUnsafeMutable { kept in
          mask.bits.withUnsafeBufferPointer { bits in
            nonisolated(unsafe) let (w, d, kept, bits) = (
              w.baseAddress!, d.baseAddress!, kept.baseAddress!, bits.baseAddress!
            )
            Threads.forEach(rows.count) { index in
              let row = rows.lowerBound + index
              let start = index * columns
              weight.load(row..<row + 1, into: w + start)
              espalier_unpack_bits(columns, bits + row * mask.rowBytes, kept + start)
              espalier_pruned_part(columns, w + start, kept + start, d + start)
            }
          }
        }
      }
    }
  }

  /// c = ((1-m).w) G for all rows of the block.
  mutating func correlate(_ gram: UnsafePointer<Float>, rows: Int) {
    let columns = columns
    nonisolated(unsafe) let gram = gram
    pruned.elements.withUnsafe { d in
      correlations.elements.withUnsafeMutable { c in
        nonisolated(unsafe) let (d, c) = (d.baseAddress!, c.baseAddress!)
        let panels = parts(of: columns, size: columnPanel)
        Threads.forEach(panels.count) { index in
          let panel = panels[index]
          cblas_sgemm(
            CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(rows), blasint(panel.count), blasint(columns),
            1, d, blasint(columns),
            gram + panel.lowerBound, blasint(columns), 0, c + panel.lowerBound, blasint(columns))
        }
      }
    }
  }

  mutating func swap(
    _ gram: UnsafePointer<Float>, _ channels: ChannelBounds, rows: Int, span: Int, limit: Int
  ) {
    let columns = columns
    nonisolated(unsafe) let gram = gram
    weights.elements.withUnsafe { w in
      correlations.elements.withUnsafe { c in
        kept.withUnsafeMutable { kept in
          outcomes.withUnsafeMutableBufferPointer { outcomes in
            nonisolated(unsafe) let (w, c, kept, outcomes) = (
              w.baseAddress!, c.baseAddress!, kept.baseAddress!, outcomes.baseAddress!
            )
            Threads.forEach(rows, scratch: { SwapScratch(columns: columns) }) { scratch, row in
              outcomes[row] = scratch.refine(
                gram, channels, w + row * columns, c + row * columns, kept + row * columns, span: span,
                limit: limit)
            }
          }
        }
      }
    }
  }

  borrowing func store(rows: Range<Int>, mask: inout Mask) {
    let rowBytes = mask.rowBytes
    kept.withUnsafe { kept in
      mask.withUnsafeMutableBits { bits in
        for (index, row) in rows.enumerated() {
          espalier_pack_bits(columns, kept.baseAddress! + index * columns, bits.baseAddress! + row * rowBytes)
        }
      }
    }
  }
}

/// What the search knows of every channel: its norm, and how far it is correlated with any other at most.
private struct ChannelBounds: Sendable {
  let norms: [Float]
  let reach: [Float]

  init(_ gram: GramMatrix) {
    let columns = gram.columns
    (norms, reach) = gram.withElements { gram in
      nonisolated(unsafe) let gram = gram
      // Channels without input have no norm to divide by; a tiny one keeps every bound true.
      let norms = (0..<columns).map { max(gram[$0 * columns + $0], 0).squareRoot() + 1e-18 }
      var reach = [Float](repeating: 0, count: columns)
      reach.withUnsafeMutableBufferPointer { reach in
        nonisolated(unsafe) let reach = reach
        let blocks = parts(of: columns, size: 64)
        Threads.forEach(blocks.count) { index in
          for row in blocks[index] {
            reach[row] = espalier_reach_of(columns, row, gram + row * columns, norms)
          }
        }
      }
      return (norms, reach)
    }
  }
}

private struct SwapScratch: ~Copyable {
  var correlation: Buffer<Double>
  var terms: Buffer<Float>

  init(columns: Int) {
    correlation = Buffer(count: columns)
    terms = Buffer(count: 10 * columns)
  }

  mutating func refine(
    _ gram: UnsafePointer<Float>, _ channels: ChannelBounds, _ w: UnsafePointer<Float>,
    _ c: UnsafePointer<Float>,
    _ kept: UnsafeMutablePointer<UInt8>, span: Int,
    limit: Int
  ) -> RowOutcome {
    let columns = correlation.count
    return correlation.withUnsafeMutable { correlation in
      terms.withUnsafeMutable { terms in
        for index in 0..<columns { correlation[index] = Double(c[index]) }
        var outcome = RowOutcome()
        outcome.before = espalier_row_loss(columns, w, kept, correlation.baseAddress!)
        outcome.counts = espalier_swap_row(
          columns, span, UInt64(limit), columns, gram, channels.norms, channels.reach, w, kept,
          correlation.baseAddress!, terms.baseAddress!)
        outcome.after = espalier_row_loss(columns, w, kept, correlation.baseAddress!)
        return outcome
      }
    }
  }
}
