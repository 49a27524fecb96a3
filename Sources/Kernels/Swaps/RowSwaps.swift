import CKernels
import EspalierCore

/// The search for the best swaps within rows, or within groups that are too large to be searched whole.
struct RowSwaps: RowSearch {
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

  var columns: Int { gram.columns }
  var rowBytes: Int { espalier_swap_scratch(columns, span) }

  func withKernel<Result>(limit: UInt64, _ body: (RowKernel) -> Result) -> Result {
    let span = span
    return gram.withKernel { gram in
      channels.withKernel(gram) { channels in
        nonisolated(unsafe) let channels = channels
        return body { espalier_swap_search(channels, span, limit, $0, $1, $2) }
      }
    }
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

  func withKernel<Result>(
    _ gram: espalier_gram, _ body: (UnsafePointer<espalier_swap_channels>) -> Result
  ) -> Result {
    withUnsafePointer(to: gram) { gram in
      diagonal.withUnsafeBufferPointer { diagonal in
        norms.withUnsafeBufferPointer { norms in
          reach.withUnsafeBufferPointer { reach in
            let channels = espalier_swap_channels(
              gram: gram, diagonal: diagonal.baseAddress!, norms: norms.baseAddress!,
              reach: reach.baseAddress!)
            return withUnsafePointer(to: channels, body)
          }
        }
      }
    }
  }
}
