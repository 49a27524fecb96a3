import CKernels
import EspalierCore

/// Values that one step of a panel holds, and steps that are summed up before they are added to the result.
let panelWidth = Int(ESPALIER_GEMM_PANEL)
let runSteps = Int(ESPALIER_GEMM_RUN)

extension Precision {
  /// Whether this machine has the instructions for it; f32 works anywhere.
  public var isAvailable: Bool { self == .f32 || espalier_has_bf16() != 0 }

  /// Values of k in one step of a panel.
  var valuesPerStep: Int { self == .f32 ? 1 : 2 }

  func steps(_ values: Int) -> Int { (values + valuesPerStep - 1) / valuesPerStep }

  /// C (`rows x columns`) = or += A B^T from packed panels; see `espalier_gemm_f32`.
  ///
  /// - Parameter stride: distance between the rows of C.
  func multiply(
    rows: Int, columns: Int, steps: Int, _ a: Span<UInt32>, _ aStride: Int, _ b: Span<UInt32>, _ bStride: Int,
    firstColumn: Int = .min, adding: Bool, into c: inout MutableSpan<Float>, stride: Int
  ) {
    switch self {
    case .f32:
      espalier_gemm_f32(
        rows, columns, steps, a, aStride, b, bStride, firstColumn, adding ? 1 : 0, &c, stride)
    case .bf16:
      espalier_gemm_bf16(
        rows, columns, steps, a, aStride, b, bStride, firstColumn, adding ? 1 : 0, &c, stride)
    }
  }

  /// Packs at most 16 rows of `x`, one after the other, into one panel; with bf16 they are rounded in place.
  ///
  /// - Parameter lines: scratch of `panelWidth * runSteps` words.
  func packPanel(
    rows: Int, columns: Int, _ x: inout MutableSpan<Float>, lines: inout Buffer<UInt32>,
    into panel: inout MutableSpan<UInt32>
  ) {
    guard self == .bf16 else { return packWords(rows: rows, columns: columns, x.span, into: &panel) }
    packPairs(rows: rows, columns: columns, lines: &lines, into: &panel) { row, slice, target in
      var values = x.part(row * columns + slice.lowerBound..<row * columns + slice.upperBound)
      espalier_round_bf16(&values, target)
    }
  }

  /// Packs at most 16 rows of `x` times a factor for each row, one after the other, into one panel; `x` is undefined then.
  ///
  /// - Parameter lines: scratch of `panelWidth * runSteps` words.
  func packPanel(
    rows: Int, columns: Int, _ x: inout MutableSpan<Float>, times factors: Span<Float>,
    lines: inout Buffer<UInt32>, into panel: inout MutableSpan<UInt32>
  ) {
    guard self == .bf16 else {
      for row in 0..<rows {
        var values = x.part(row * columns..<(row + 1) * columns)
        espalier_scale(factors[row], &values)
      }
      return packWords(rows: rows, columns: columns, x.span, into: &panel)
    }
    let x = x.span
    packPairs(rows: rows, columns: columns, lines: &lines, into: &panel) { row, slice, target in
      let values = x.extracting(row * columns + slice.lowerBound..<row * columns + slice.upperBound)
      espalier_scale_to_bf16(factors[row], values, target)
    }
  }

  private func packWords(rows: Int, columns: Int, _ x: Span<Float>, into panel: inout MutableSpan<UInt32>) {
    x.withUnsafeBytes { bytes in
      if let start = bytes.baseAddress { espalier_pack_rows(rows, columns, columns, start, &panel) }
    }
  }

  /// Packs rows of bf16 into one panel, in slices.
  ///
  /// - Parameter round: writes some columns of a row as bf16.
  private func packPairs(
    rows: Int, columns: Int, lines: inout Buffer<UInt32>, into panel: inout MutableSpan<UInt32>,
    _ round: (_ row: Int, _ columns: Range<Int>, UnsafeMutablePointer<UInt16>) -> Void
  ) {
    for slice in parts(of: columns, size: 2 * runSteps) {
      let count = steps(slice.count)
      lines.withUnsafeMutable { lines in
        guard let start = lines.baseAddress else { return }
        for row in 0..<rows {
          start[row * runSteps + count - 1] = 0
          (start + row * runSteps).withMemoryRebound(to: UInt16.self, capacity: 2 * runSteps) {
            round(row, slice, $0)
          }
        }
        var steps = panel.part(slice.lowerBound / 2 * panelWidth..<panel.count)
        espalier_pack_rows(rows, count, runSteps, start, &steps)
      }
    }
  }

  /// Packs at most 16 columns of `depth` rows, `stride` apart, into one panel.
  func packColumns(
    _ count: Int, depth: Int, stride: Int, _ x: Span<Float>, into panel: inout MutableSpan<UInt32>
  ) {
    switch self {
    case .f32: espalier_pack_columns_f32(count, depth, stride, x, &panel)
    case .bf16: espalier_pack_columns_bf16(count, depth, stride, x, &panel)
    }
  }
}

/// A matrix as the products read it: the inputs of linear layers, packed once for all layers that share them.
public struct PackedMatrix: ~Copyable, Sendable {
  public enum Layout: Sendable, Hashable {
    /// Panels of 16 rows, as `gemm.c` multiplies them.
    case panels
    /// At most 16 rows, as `fewtokens.c` multiplies them, in words of f32 or of pairs of bf16.
    case few(paired: Bool)

    /// The most rows of the layout for few rows.
    public static let fewRows = 16
  }

  public let rows: Int
  public let columns: Int
  public let precision: Precision
  let layout: Layout
  /// Steps of every panel.
  let steps: Int
  private let words: Buffer<UInt32>

  /// Packs a few rows, at most ``Layout/fewRows``; with bf16 they are rounded.
  public init(few matrix: inout Matrix, _ precision: Precision, on device: Device) {
    let isPaired = precision == .bf16 && espalier_few_pairs() != 0
    self.init(few: &matrix, precision, paired: isPaired, on: device)
  }

  init(few matrix: inout Matrix, _ precision: Precision, paired isPaired: Bool, on device: Device) {
    let (rows, columns) = (matrix.rows, matrix.columns)
    precondition(rows <= Layout.fewRows)
    if precision == .bf16, !isPaired { roundToBF16(&matrix) }
    let paired: Int32 = isPaired ? 1 : 0
    let step = espalier_few_words(1, paired)
    var words = Buffer<UInt32>(unfilled: rows * espalier_few_words(columns, paired), in: device.scratch)
    do {
      let x = matrix.mutableRowSpans
      for row in 0..<rows where columns > 0 {
        var values = x[row]
        var target = words.part(row * step..<words.count)
        espalier_few_pack(&values, paired, rows, &target)
      }
    }
    self.rows = rows
    self.columns = columns
    self.precision = precision
    self.layout = .few(paired: isPaired)
    steps = 0
    self.words = words
  }

  /// Packs the rows of `matrix` for a sum over its columns. With bf16 the matrix itself is rounded too, so that an
  /// observer sees what the products see.
  ///
  /// - Parameter length: rows of a sequence, if no panel may hold rows of two.
  public init(rounding matrix: inout Matrix, _ precision: Precision, length: Int? = nil, on device: Device) {
    let (rows, columns) = (matrix.rows, matrix.columns)
    let steps = precision.steps(columns)
    let length = max(1, length ?? rows)
    let panels = parts(of: length, size: panelWidth)
    let count = rows / length * panels.count
    var words = Buffer<UInt32>(unfilled: count * steps * panelWidth, in: device.scratch)
    do {
      let (x, words) = (matrix.mutableRowSpans, words.mutableRowSpans(columns: steps * panelWidth))
      device.forEach(
        count, scratch: { Buffer<UInt32>(unfilled: panelWidth * runSteps) },
        { lines, index in
          let rows = panels[index % panels.count]
          let first = index / panels.count * length
          var part = x[first + rows.lowerBound..<first + rows.upperBound]
          var panel = words[index]
          precision.packPanel(rows: rows.count, columns: columns, &part, lines: &lines, into: &panel)
        })
    }
    self.rows = rows
    self.columns = columns
    self.precision = precision
    layout = .panels
    self.steps = steps
    self.words = words
  }

  /// Packs the columns of `matrix`, `tokens x columns`, for a sum over its rows: for Gram matrices.
  init(columnsOf matrix: Span<Float>, columns: Int, _ precision: Precision, on device: Device) {
    let tokens = matrix.count / columns
    let steps = precision.steps(tokens)
    let panels = parts(of: columns, size: panelWidth)
    var words = Buffer<UInt32>(unfilled: panels.count * steps * panelWidth, in: device.scratch)
    do {
      let words = words.mutableRowSpans(columns: steps * panelWidth)
      device.forEach(panels.count) { index in
        var panel = words[index]
        precision.packColumns(
          panels[index].count, depth: tokens, stride: columns,
          matrix.extracting(panels[index].lowerBound..<matrix.count), into: &panel)
      }
    }
    rows = columns
    self.columns = tokens
    self.precision = precision
    layout = .panels
    self.steps = steps
    self.words = words
  }

  /// Distance between panels.
  var stride: Int { steps * panelWidth }

  /// All panels, or the words of few rows.
  var panels: Span<UInt32> {
    @_lifetime(borrow self)
    borrowing get { words.span }
  }

  /// Few rows of pairs of bf16 as f32, for a weight of another type.
  borrowing func widened(on device: Device) -> PackedMatrix {
    var matrix = device.matrix(unfilled: rows, columns: columns)
    let step = espalier_few_words(1, 1)
    for row in 0..<rows {
      for column in 0..<columns {
        let word = words[(column / 32 * rows + row) * step + column % 32 / 2]
        matrix[row, column] = Float(bitPattern: column % 2 == 0 ? word << 16 : word & 0xFFFF_0000)
      }
    }
    return PackedMatrix(few: &matrix, .bf16, paired: false, on: device)
  }

  /// The panels from that of a row on; `row` is a multiple of 16.
  @_lifetime(borrow self)
  borrowing func panels(from row: Int) -> Span<UInt32> {
    words.span.extracting(row / panelWidth * stride..<words.count)
  }
}

private func roundToBF16(_ matrix: inout Matrix) {
  var rounded = Buffer<UInt16>(unfilled: matrix.columns)
  let x = matrix.mutableRowSpans
  for row in 0..<x.rows where x.columns > 0 {
    var values = x[row]
    rounded.withUnsafeMutable { if let start = $0.baseAddress { espalier_round_bf16(&values, start) } }
  }
}
