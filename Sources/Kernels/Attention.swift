import CKernels
import EspalierCore

/// Queries whose scores are held at a time; the scores of a tile are `tile x keys`, never `length x length`.
private let queryTile = 64

/// Causal attention with grouped queries.
///
/// Sequences of `length` tokens follow each other in the rows. Head h of the queries reads head `h / (heads / keyHeads)` of keys and
/// values. Scores are `q . k / sqrt(headSize)`; with bf16 their softmax is rounded too, as the values are.
///
/// - Parameters:
///   - queries, output: `tokens x (heads * headSize)`; the queries are rounded to `precision`.
///   - keys, values: `tokens x (keyHeads * headSize)`; the keys are rounded.
public func causalAttention(
  queries: inout Matrix, keys: inout Matrix, values: borrowing Matrix, length: Int, heads: Int,
  keyHeads: Int, headSize: Int, _ precision: Precision, into output: inout Matrix
) {
  let tokens = queries.rows
  precondition(
    queries.columns == heads * headSize && keys.columns == keyHeads * headSize
      && values.columns == keyHeads * headSize)
  precondition(
    keys.rows == tokens && values.rows == tokens && output.rows == tokens
      && output.columns == heads * headSize)
  precondition(length > 0 && tokens % length == 0 && heads % keyHeads == 0)
  precondition(headSize % precision.valuesPerStep == 0)
  let sequences = tokens / length
  let tiles = parts(of: length, size: queryTile)
  let scale = 1 / Float(headSize).squareRoot()
  let width = heads * headSize
  let q = PackedMatrix(rounding: &queries, precision, length: length)
  let k = PackedMatrix(rounding: &keys, precision, length: length)
  let v = PackedValues(values, length: length, headSize: headSize, precision)
  q.withPanels { q in
    k.withPanels { k in
      v.withPanels { v in
        output.elements.withUnsafeMutable { output in
          nonisolated(unsafe) let (q, k, v, y) = (q, k, v, output.baseAddress!)
          let panels = (length + panelWidth - 1) / panelWidth
          let (queryStride, keyStride) = (
            precision.steps(width) * panelWidth, precision.steps(keyHeads * headSize) * panelWidth
          )
          let valueStride = precision.steps(length) * panelWidth
          let valuePanels = (headSize + panelWidth - 1) / panelWidth
          let headSteps = headSize / precision.valuesPerStep
          Threads.forEach(
            sequences * heads * tiles.count,
            scratch: { AttentionScratch(rows: min(queryTile, length), length: length, precision) }
          ) { scratch, index in
            // The longest tiles come first, so that the threads end together.
            let tile = tiles[tiles.count - 1 - index / (sequences * heads)]
            let head = index % heads
            let sequence = index / heads % sequences
            let keyHead = head / (heads / keyHeads)
            let live = tile.upperBound
            scratch.withScores { scores in
              precision.multiply(
                rows: tile.count, columns: live, steps: headSteps,
                q + (sequence * panels + tile.lowerBound / panelWidth) * queryStride + head * headSteps
                  * panelWidth,
                queryStride,
                k + sequence * panels * keyStride + keyHead * headSteps * panelWidth, keyStride,
                adding: false, into: scores, stride: live)
              for row in 0..<tile.count {
                espalier_softmax(live, tile.lowerBound + row + 1, scale, scores + row * live)
              }
            }
            scratch.withShares(rows: tile.count, live: live) { shares, stride in
              precision.multiply(
                rows: tile.count, columns: headSize, steps: precision.steps(live), shares, stride,
                v + (sequence * keyHeads + keyHead) * valuePanels * valueStride, valueStride, adding: false,
                into: y + (sequence * length + tile.lowerBound) * width + head * headSize, stride: width)
            }
          }
        }
      }
    }
  }
}

/// The values of every sequence and head, their tokens summed over: panels of 16 channels.
private struct PackedValues: ~Copyable {
  private let words: Buffer<UInt32>

  init(_ values: borrowing Matrix, length: Int, headSize: Int, _ precision: Precision) {
    let width = values.columns
    let panels = parts(of: headSize, size: panelWidth)
    let count = values.rows / length * (width / headSize)
    let stride = precision.steps(length) * panelWidth
    var words = Buffer<UInt32>(unfilled: count * panels.count * stride)
    values.elements.withUnsafe { values in
      words.withUnsafeMutable { words in
        nonisolated(unsafe) let (x, words) = (values.baseAddress!, words.baseAddress!)
        Threads.forEach(count) { index in
          let (sequence, head) = (index / (width / headSize), index % (width / headSize))
          for (panel, range) in panels.enumerated() {
            precision.packColumns(
              range.count, depth: length, stride: width,
              x + sequence * length * width + head * headSize + range.lowerBound,
              into: words + (index * panels.count + panel) * stride)
          }
        }
      }
    }
    self.words = words
  }

  borrowing func withPanels(_ body: (UnsafePointer<UInt32>) -> Void) {
    words.withUnsafe { body($0.baseAddress!) }
  }
}

/// What one thread holds: the scores of a tile, and their softmax packed.
private struct AttentionScratch: ~Copyable {
  private let precision: Precision
  private var scores: Buffer<Float>
  private var shares: Buffer<UInt32>
  private var lines = Buffer<UInt32>(unfilled: panelWidth * runSteps)

  init(rows: Int, length: Int, _ precision: Precision) {
    self.precision = precision
    scores = Buffer(unfilled: rows * length)
    shares = Buffer(unfilled: (rows + panelWidth - 1) / panelWidth * panelWidth * precision.steps(length))
  }

  mutating func withScores(_ body: (UnsafeMutablePointer<Float>) -> Void) {
    scores.withUnsafeMutable { body($0.baseAddress!) }
  }

  /// Packs `rows x live` scores.
  mutating func withShares(rows: Int, live: Int, _ body: (UnsafePointer<UInt32>, _ stride: Int) -> Void) {
    let stride = precision.steps(live) * panelWidth
    scores.withUnsafeMutable { scores in
      shares.withUnsafeMutable { shares in
        lines.withUnsafeMutable { lines in
          for (index, range) in parts(of: rows, size: panelWidth).enumerated() {
            precision.packPanel(
              rows: range.count, columns: live, scores.baseAddress! + range.lowerBound * live,
              lines: lines.baseAddress!, into: shares.baseAddress! + index * stride)
          }
        }
        body(shares.baseAddress!, stride)
      }
    }
  }
}
