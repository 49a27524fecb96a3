import CKernels
import EspalierCore
import EspalierIO

/// The most rows of a weight that are packed at a time, and the bytes that a thread packs.
public let linearRowsAtATime = 192
private let packedBytes = 6 << 20
/// Tokens that they meet at a time: the results stay in the second cache until all steps are summed up.
let tokensAtATime = 256
/// Bytes of a weight that are resident at a time: mapped pages, or rows that threads read.
public let linearResidentBytes = 16 << 20

/// Bytes that a thread holds while it multiplies with a weight of `columns` columns.
public func linearScratchBytes(columns: Int, _ precision: Precision) -> Int {
  rowsAtATime(precision.steps(columns)) * (precision.steps(columns) + tokensAtATime) * 4
    + panelWidth * runSteps * 4
}

/// Rows of a weight that are packed at a time.
func rowsAtATime(_ steps: Int) -> Int {
  let fitting = packedBytes / (max(1, steps) * 4) / (3 * panelWidth) * (3 * panelWidth)
  return min(linearRowsAtATime, max(panelWidth, fitting))
}

/// `output = input W^T (+ output)`: input `tokens x columns`, W `rows x columns`, output `tokens x rows`, from its row `first` on.
///
/// The threads share the rows of W. Each row is converted once, on its way into the product, and its pages are given back. An element
/// of the output depends on one row of the input and one of W alone, not on how many others there are.
public func linear(
  _ input: borrowing PackedMatrix, _ weight: LinearWeight, adding: Bool = false, into output: inout Matrix,
  at first: Int = 0, on device: Device
) {
  let (tokens, rows, columns) = (input.rows, weight.rows, weight.columns)
  precondition(input.columns == columns && output.columns == rows)
  precondition(first >= 0 && first + tokens <= output.rows)
  guard tokens > 0, rows > 0, columns > 0 else { return }
  if case .few(let isPaired) = input.layout {
    guard isPaired, !weight.isBF16 else {
      return multiplyFew(input, isPaired, weight, adding: adding, into: &output, at: first, on: device)
    }
    let widened = input.widened(on: device)
    return multiplyFew(widened, false, weight, adding: adding, into: &output, at: first, on: device)
  }
  let (precision, steps, stride) = (input.precision, input.steps, input.stride)
  let most = rowsAtATime(steps)
  // Giving pages back interrupts every processor: it is done for many rows at once.
  let groups = weight.keepsPages ? [0..<rows] : parts(of: rows, size: weight.rows(in: linearResidentBytes))
  let chunks = parts(of: tokens, size: tokensAtATime)
  let panels = input.panels
  let output = output.mutableRowSpans
  for group in groups {
    let blocks = device.parts(of: group.count, most: most, step: panelWidth)
    device.forEach(
      blocks.count,
      scratch: { LinearScratch(rows: min(most, rows), steps: steps, tokens: chunks[0].count, device) },
      { scratch, index in
        let block = group.lowerBound + blocks[index].lowerBound..<group.lowerBound + blocks[index].upperBound
        scratch.load(weight, block, precision)
        for chunk in chunks {
          var results = output[first + chunk.lowerBound..<first + chunk.upperBound]
          scratch.multiply(
            panels.extracting(chunk.lowerBound / panelWidth * stride..<panels.count), rows: chunk.count,
            columns: block.count, precision, adding: adding, into: &results, from: block.lowerBound,
            stride: rows)
        }
      })
    if !weight.keepsPages { weight.release(group) }
  }
}

/// What one thread holds: some rows of a weight, packed, and their products with some tokens.
struct LinearScratch: ~Copyable {
  private let steps: Int
  private var panels: Buffer<UInt32>
  private var lines = Buffer<UInt32>(unfilled: panelWidth * runSteps)
  private var sums: Buffer<Float>
  private var read = WeightScratch()

  init(rows: Int, steps: Int, tokens: Int, _ device: Device) {
    self.steps = steps
    panels = Buffer(
      unfilled: (rows + panelWidth - 1) / panelWidth * panelWidth * steps, in: device.scratch)
    sums = Buffer(unfilled: tokens * rows, in: device.scratch)
  }

  /// Packs rows of the weight.
  mutating func load(_ weight: LinearWeight, _ rows: Range<Int>, _ precision: Precision) {
    Self.load(weight, rows, steps, precision, &read, &lines, into: &panels)
  }

  private static func load(
    _ weight: LinearWeight, _ rows: Range<Int>, _ steps: Int, _ precision: Precision,
    _ read: inout WeightScratch, _ lines: inout Buffer<UInt32>, into panels: inout Buffer<UInt32>
  ) {
    let slices = parts(of: weight.columns, size: runSteps * precision.valuesPerStep)
    for (index, range) in parts(of: rows.count, size: panelWidth).enumerated() {
      let first = rows.lowerBound + range.lowerBound
      weight.withRows(first..<first + range.count, using: &read) { rows in
        var cursors = rows.cursors()
        for slice in slices {
          let start = (index * steps + slice.lowerBound / precision.valuesPerStep) * panelWidth
          let end = (index + 1) * steps * panelWidth
          var target = panels.part(start..<end)
          rows.pack(slice, precision, &cursors, lines: &lines, into: &target)
        }
      }
    }
  }

  /// `output = x W^T (+ output)` for packed x, `rows x steps`, and the first `columns` rows that were loaded.
  mutating func multiply(
    _ x: Span<UInt32>, rows: Int, columns: Int, _ precision: Precision, adding: Bool,
    into output: inout MutableSpan<Float>, from first: Int, stride: Int
  ) {
    Self.multiply(
      x, panels, steps, rows: rows, columns: columns, precision, adding: adding, into: &output,
      from: first, stride: stride, &sums)
  }

  private static func multiply(
    _ x: Span<UInt32>, _ panels: borrowing Buffer<UInt32>, _ steps: Int, rows: Int, columns: Int,
    _ precision: Precision, adding: Bool, into output: inout MutableSpan<Float>, from first: Int,
    stride: Int, _ sums: inout Buffer<Float>
  ) {
    let panels = panels.span
    withNearSums(
      rows: rows, columns: columns, start: adding ? .elements : .undefined, into: &output, from: first,
      stride: stride, &sums
    ) {
      precision.multiply(
        rows: rows, columns: columns, steps: steps, x, steps * panelWidth, panels, steps * panelWidth,
        adding: adding, into: &$0, stride: columns)
    }
  }
}

/// Adds `bias`, `1 x columns`, to some rows of `output`.
public func addToRows(_ bias: borrowing Matrix, into output: inout Matrix, rows: Range<Int>) {
  let bias = bias.elements.span
  let output = output.mutableRowSpans
  for row in rows {
    var line = output[row]
    espalier_add(bias, &line)
  }
}
