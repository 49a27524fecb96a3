import CKernels
import COpenBLAS
import EspalierCore

/// Queries whose scores are held at a time; the scores of a tile are `tile x keys`, never `length x length`.
private let queryTile = 128

/// Causal attention with grouped queries.
///
/// Sequences of `length` tokens follow each other in the rows. Head h of the queries reads head `h / (heads / keyHeads)` of keys and
/// values. Scores are `q . k / sqrt(headSize)`.
///
/// - Parameters:
///   - queries, output: `tokens x (heads * headSize)`
///   - keys, values: `tokens x (keyHeads * headSize)`
public func causalAttention(
  queries: borrowing Matrix, keys: borrowing Matrix, values: borrowing Matrix, length: Int, heads: Int,
  keyHeads: Int, headSize: Int,
  into output: inout Matrix
) {
  let tokens = queries.rows
  precondition(
    queries.columns == heads * headSize && keys.columns == keyHeads * headSize
      && values.columns == keyHeads * headSize)
  precondition(
    keys.rows == tokens && values.rows == tokens && output.rows == tokens
      && output.columns == heads * headSize)
  precondition(length > 0 && tokens % length == 0 && heads % keyHeads == 0)
  let tiles = parts(of: length, size: queryTile)
  let scale = 1 / Float(headSize).squareRoot()
  let (queryWidth, keyWidth) = (heads * headSize, keyHeads * headSize)
  queries.elements.withUnsafe { queries in
    keys.elements.withUnsafe { keys in
      values.elements.withUnsafe { values in
        output.elements.withUnsafeMutable { output in
          nonisolated(unsafe) let (q, k, v, y) = (
            queries.baseAddress!, keys.baseAddress!, values.baseAddress!, output.baseAddress!
          )
          Threads.forEach(
            tokens / length * heads * tiles.count,
            scratch: { Buffer<Float>(count: min(queryTile, length) * length) }
          ) { scratch, index in
            // The longest tiles come first, so that the threads end together.
            let tile = tiles[tiles.count - 1 - index / (tokens / length * heads)]
            let head = index % heads
            let start = index / heads % (tokens / length) * length
            let keyOffset = start * keyWidth + head / (heads / keyHeads) * headSize
            let queryOffset = (start + tile.lowerBound) * queryWidth + head * headSize
            let live = tile.upperBound
            scratch.withUnsafeMutable { scores in
              let scores = scores.baseAddress!
              cblas_sgemm(
                CblasRowMajor, CblasNoTrans, CblasTrans, blasint(tile.count), blasint(live),
                blasint(headSize), scale, q + queryOffset,
                blasint(queryWidth), k + keyOffset, blasint(keyWidth), 0, scores, blasint(live))
              for row in 0..<tile.count {
                espalier_softmax(live, tile.lowerBound + row + 1, scores + row * live)
              }
              cblas_sgemm(
                CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(tile.count), blasint(headSize),
                blasint(live), 1, scores, blasint(live),
                v + keyOffset, blasint(keyWidth), 0, y + queryOffset, blasint(queryWidth))
            }
          }
        }
      }
    }
  }
}
