import CKernels
import EspalierCore

/// Rows of G that one thread looks at.
private let rowsAtATime = 64

/// What the search for swaps knows of every channel: its norm, and its largest correlation with another channel.
struct ChannelBounds: Sendable {
  let diagonal: [Double]
  let norms: [Float]
  /// An upper bound of `|G_ij| / (norm_i norm_j)` over all j but i, for each i.
  let largestCorrelations: [Float]

  init(_ gram: GramMatrix, on device: Device) {
    diagonal = gram.diagonal
    // Channels without input have no norm to divide by; a tiny one keeps every bound true.
    norms = diagonal.map { Float(max($0, 0).squareRoot()) + 1e-18 }
    largestCorrelations = Self.largestCorrelations(gram, inverse: norms.map { 1 / $0 }, on: device)
  }

  private static func largestCorrelations(_ gram: GramMatrix, inverse: [Float], on device: Device) -> [Float]
  {
    let columns = gram.columns
    let blocks = parts(of: columns, size: rowsAtATime)
    var found = Matrix(rows: blocks.count, columns: columns)
    do {
      let rows = found.mutableRowSpans
      let made = gram.isFactored ? rowsAtATime * columns : 0
      device.forEach(
        blocks.count, scratch: { Buffer<Float>(count: made) },
        { made, index in
          let block = blocks[index]
          var largest = rows[index]
          gram.withRows(block, using: &made) {
            espalier_raise_correlations(block.lowerBound, block.count, $0, inverse.span, &largest)
          }
        })
    }
    // The sums of a factor's products carry the rounding of as many terms as it has rows.
    let slack = gram.withKernel { 4e-6 + Float($0.rank) * 1.2e-7 }
    var largest = [Float](repeating: 0, count: columns)
    for (index, block) in blocks.enumerated() {
      for column in block.lowerBound..<columns {
        largest[column] = max(largest[column], found[index, column])
      }
    }
    return largest.map { $0 * (1 + slack) + (gram.isFactored ? slack : 0) }
  }

  /// Bytes that making the bounds takes; they themselves take less.
  static func workingSet(columns: Int, rank: Int?, threads: Int) -> Int {
    let blocks = (columns + rowsAtATime - 1) / rowsAtATime
    return (blocks + (rank == nil ? 0 : min(threads, blocks) * rowsAtATime)) * columns * 4
  }
}
