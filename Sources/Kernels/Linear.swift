import CKernels
import EspalierCore

/// Rows of a weight that are packed and multiplied at a time, and tokens that they meet before the next run of steps: their panels
/// stay in the second cache.
public let linearRowsAtATime = 192
private let tokensAtATime = 512
/// Bytes of a mapped weight that are resident at a time.
public let linearResidentBytes = 16 << 20
/// Bytes of packed weights that a thread holds.
public let linearScratchBytes = (linearRowsAtATime + panelWidth) * runSteps * 4

/// `output = input W^T (+ output)`: input `tokens x columns`, W `rows x columns`, output `tokens x rows`, from its row `first` on.
///
/// The rows of W are shared among the threads; each is converted once, on its way into the product, and its pages are given back.
/// An element of the output depends on one row of the input and one of W alone, not on how many others there are.
public func linear(
  _ input: borrowing PackedMatrix, _ weight: LinearWeight, adding: Bool = false, into output: inout Matrix,
  at first: Int = 0
) {
  let (tokens, rows, columns) = (input.rows, weight.rows, weight.columns)
  precondition(input.columns == columns && output.columns == rows)
  precondition(first >= 0 && first + tokens <= output.rows)
  guard tokens > 0, rows > 0, columns > 0 else { return }
  let precision = input.precision
  let stride = input.stride
  // Giving pages back interrupts every processor: it is done for many rows at once.
  let groups = weight.keepsPages ? [0..<rows] : parts(of: rows, size: weight.rows(in: linearResidentBytes))
  let slices = parts(of: columns, size: runSteps * precision.valuesPerStep)
  let chunks = parts(of: tokens, size: tokensAtATime)
  input.withPanels { input in
    output.elements.withUnsafeMutable { output in
      nonisolated(unsafe) let (x, y) = (input, output.baseAddress! + first * rows)
      for group in groups {
        let blocks = parts(of: group.count, size: linearRowsAtATime)
        Threads.forEach(blocks.count, scratch: { WeightPanels(rows: min(linearRowsAtATime, rows)) }) {
          panels, index in
          let block =
            group.lowerBound + blocks[index].lowerBound..<group.lowerBound + blocks[index].upperBound
          for slice in slices {
            let start = slice.lowerBound / precision.valuesPerStep * panelWidth
            panels.load(weight, block, slice, precision) { w in
              for chunk in chunks {
                precision.multiply(
                  rows: chunk.count, columns: block.count, steps: precision.steps(slice.count),
                  x + chunk.lowerBound / panelWidth * stride + start, stride, w, runSteps * panelWidth,
                  adding: adding || slice.lowerBound > 0,
                  into: y + chunk.lowerBound * rows + block.lowerBound, stride: rows)
              }
            }
          }
        }
        if !weight.keepsPages { weight.release(group) }
      }
    }
  }
}

/// One run of steps of some rows of a weight, packed.
private struct WeightPanels: ~Copyable {
  private var panels: Buffer<UInt32>
  private var lines = Buffer<UInt32>(unfilled: panelWidth * runSteps)

  init(rows: Int) {
    panels = Buffer(unfilled: (rows + panelWidth - 1) / panelWidth * panelWidth * runSteps)
  }

  mutating func load(
    _ weight: LinearWeight, _ rows: Range<Int>, _ slice: Range<Int>, _ precision: Precision,
    _ body: (UnsafePointer<UInt32>) -> Void
  ) {
    let steps = precision.steps(slice.count)
    panels.withUnsafeMutable { panels in
      lines.withUnsafeMutable { lines in
        for (index, range) in parts(of: rows.count, size: panelWidth).enumerated() {
          let target = panels.baseAddress! + index * runSteps * panelWidth
          let first = rows.lowerBound + range.lowerBound
          if weight.pack(first..<first + range.count, slice, precision, into: target) { continue }
          for row in 0..<range.count {
            let line = lines.baseAddress! + row * runSteps
            line[steps - 1] = 0
            weight.load(first + row, slice, precision, into: line)
          }
          espalier_pack_rows(range.count, steps, runSteps, lines.baseAddress!, target)
        }
      }
      body(panels.baseAddress!)
    }
  }
}

/// Adds `bias`, `1 x columns`, to some rows of `output`.
public func addToRows(_ bias: borrowing Matrix, into output: inout Matrix, rows: Range<Int>) {
  let columns = output.columns
  precondition(bias.columns == columns && rows.lowerBound >= 0 && rows.upperBound <= output.rows)
  bias.elements.withUnsafe { bias in
    output.elements.withUnsafeMutable { output in
      for row in rows { espalier_add(columns, bias.baseAddress!, output.baseAddress! + row * columns) }
    }
  }
}
