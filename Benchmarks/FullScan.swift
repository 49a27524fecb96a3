import CBenchmarks
import EspalierCore
import EspalierKernels

/// Rows that take their steps together.
private let rowsAtATime = 16

/// What ``refineBySwaps(_:gram:mask:options:on:progress:)`` is measured against: the same swaps, but every pair (kept, pruned) of a row
/// is computed at every step, in f32.
///
/// - Parameters:
///   - rows: the rows of the matrix, whose columns are a multiple of 16. A row is searched as a whole, whatever the pattern.
///   - limit: the most swaps of a row.
/// - Returns: the pairs that were computed.
func fullScan(
  _ weight: LinearWeight, gram: GramMatrix, mask: Mask, rows: Range<Int>, limit: Int, on device: Device
) -> Int {
  let columns = weight.columns
  precondition(gram.columns == columns && mask.columns == columns && columns % 16 == 0)
  let weights = weight.matrix(rows)
  var pruned = Matrix(rows: rows.count, columns: columns)
  var correlations = Matrix(rows: rows.count, columns: columns)
  var kept = Buffer<UInt8>(count: rows.count * columns)
  for row in 0..<rows.count {
    for column in 0..<columns {
      let isKept = mask[rows.lowerBound + row, column]
      kept[row * columns + column] = isKept ? 1 : 0
      pruned[row, column] = isKept ? 0 : weights[row, column]
    }
  }
  gram.multiply(pruned, rows: rows.count, into: &correlations, on: device)
  let blocks = parts(of: rows.count, size: rowsAtATime)
  var pairs = Buffer<UInt64>(count: blocks.count)
  do {
    let weights = weights.rowSpans
    let products = correlations.rowSpans
    let kept = kept.mutableRowSpans(columns: columns)
    let pairs = pairs.mutableRowSpans(columns: 1)
    gram.withElements(on: device) { elements in
      device.forEach(blocks.count) { index in
        let block = blocks[index]
        var own = Buffer<Double>(count: block.count * columns)
        let product = products[block]
        for element in product.indices { own[element] = Double(product[element]) }
        var scratch = Buffer<UInt8>(count: espalier_full_scan_scratch(columns, block.count))
        var kept = kept[block]
        var found = pairs[index]
        var c = own.mutableSpan
        var bytes = scratch.mutableSpan
        found[0] = espalier_full_scan(
          columns, block.count, UInt64(limit), elements.span, weights[block], &kept, &c, &bytes)
      }
    }
  }
  return blocks.indices.reduce(0) { $0 + Int(pairs[$1]) }
}
