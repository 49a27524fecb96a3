import CKernels
import EspalierCore

/// Bytes of a dense weight that a thread takes at a time: each time its stream begins anew.
private let bytesAtATime = 1 << 20

/// `output = input W^T (+ output)` for a few tokens, as ``linear(_:_:adding:into:at:on:)``: the weight goes from memory straight into
/// the product, since that is what takes the time.
func multiplyFew(
  _ input: borrowing PackedMatrix, _ isPaired: Bool, _ weight: LinearWeight, adding: Bool,
  into output: inout Matrix, at first: Int, on device: Device
) {
  let (tokens, rows, columns) = (input.rows, weight.rows, weight.columns)
  let most = max(1, bytesAtATime / (columns * 2))
  let blocks = device.parts(of: rows, most: most, step: 8)
  let words = input.panels
  let output = output.mutableRowSpans
  device.forEach(
    blocks.count, scratch: { WeightScratch() },
    { scratch, index in
      let block = blocks[index]
      weight.withPackedRows(block, using: &scratch) { part in
        var all = output[first..<first + tokens]
        var results = all.part(block.lowerBound..<tokens * rows)
        espalier_few_product(
          part.type, block.count, columns, part.values, part.valueBytes, part.bits, tokens, isPaired ? 1 : 0,
          words, adding ? 1 : 0, &results, rows)
      }
    })
  if !weight.keepsPages { weight.release(0..<rows) }
}
