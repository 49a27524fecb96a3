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
  func multiply(
    rows: Int, columns: Int, steps: Int, _ a: UnsafePointer<UInt32>, _ aStride: Int,
    _ b: UnsafePointer<UInt32>, _ bStride: Int, firstColumn: Int = .min, adding: Bool,
    into c: UnsafeMutablePointer<Float>, stride: Int
  ) {
    switch self {
    case .f32:
      espalier_gemm_f32(
        rows, columns, steps, a, aStride, b, bStride, firstColumn, adding ? 1 : 0, c, stride)
    case .bf16:
      espalier_gemm_bf16(
        rows, columns, steps, a, aStride, b, bStride, firstColumn, adding ? 1 : 0, c, stride)
    }
  }
}

extension Precision {
  /// Packs at most 16 rows of `x`, one after the other, into one panel; with bf16 they are rounded in place.
  ///
  /// - Parameter lines: `panelWidth * runSteps` words of scratch.
  func packPanel(
    rows: Int, columns: Int, _ x: UnsafeMutablePointer<Float>, lines: UnsafeMutablePointer<UInt32>,
    into panel: UnsafeMutablePointer<UInt32>
  ) {
    guard self == .bf16 else {
      x.withMemoryRebound(to: UInt32.self, capacity: rows * columns) {
        espalier_pack_rows(rows, columns, columns, $0, panel)
      }
      return
    }
    for slice in parts(of: columns, size: 2 * runSteps) {
      let count = steps(slice.count)
      for row in 0..<rows {
        let line = lines + row * runSteps
        line[count - 1] = 0
        line.withMemoryRebound(to: UInt16.self, capacity: 2 * runSteps) {
          espalier_round_bf16(slice.count, x + row * columns + slice.lowerBound, $0)
        }
      }
      espalier_pack_rows(rows, count, runSteps, lines, panel + slice.lowerBound / 2 * panelWidth)
    }
  }

  /// Packs at most 16 columns of `depth` rows, `stride` apart, into one panel.
  func packColumns(
    _ count: Int, depth: Int, stride: Int, _ x: UnsafePointer<Float>, into panel: UnsafeMutablePointer<UInt32>
  ) {
    switch self {
    case .f32: espalier_pack_columns_f32(count, depth, stride, x, panel)
    case .bf16: espalier_pack_columns_bf16(count, depth, stride, x, panel)
    }
  }
}

/// A matrix in panels of 16 rows, as `gemm.c` multiplies it: the inputs of linear layers, packed once for all layers that share them.
public struct PackedMatrix: ~Copyable, Sendable {
  public let rows: Int
  public let columns: Int
  public let precision: Precision
  /// Steps of every panel.
  let steps: Int
  private let words: Buffer<UInt32>

  /// Packs the rows of `matrix`, a sum over its columns to come. With bf16 the matrix itself is rounded too, so that whoever looks
  /// at it sees what the products see.
  ///
  /// - Parameter length: rows of a sequence, where no panel shall hold rows of two.
  public init(rounding matrix: inout Matrix, _ precision: Precision, length: Int? = nil) {
    let (rows, columns) = (matrix.rows, matrix.columns)
    let steps = precision.steps(columns)
    let length = max(1, length ?? rows)
    let panels = parts(of: length, size: panelWidth)
    let count = rows / length * panels.count
    var words = Buffer<UInt32>(unfilled: count * steps * panelWidth)
    matrix.elements.withUnsafeMutable { x in
      words.withUnsafeMutable { words in
        nonisolated(unsafe) let (x, words) = (x.baseAddress!, words.baseAddress!)
        Threads.forEach(count, scratch: { Buffer<UInt32>(unfilled: panelWidth * runSteps) }) {
          scratch, index in
          let panel = panels[index % panels.count]
          let first = index / panels.count * length + panel.lowerBound
          scratch.withUnsafeMutable {
            precision.packPanel(
              rows: panel.count, columns: columns, x + first * columns, lines: $0.baseAddress!,
              into: words + index * steps * panelWidth)
          }
        }
      }
    }
    self.rows = rows
    self.columns = columns
    self.precision = precision
    self.steps = steps
    self.words = words
  }

  /// Packs the columns of some rows of `matrix`, a sum over those rows to come: for Gram matrices.
  init(columnsOf matrix: UnsafePointer<Float>, rows tokens: Int, columns: Int, _ precision: Precision) {
    let steps = precision.steps(tokens)
    let panels = parts(of: columns, size: panelWidth)
    var words = Buffer<UInt32>(unfilled: panels.count * steps * panelWidth)
    words.withUnsafeMutable { words in
      nonisolated(unsafe) let (x, words) = (matrix, words.baseAddress!)
      Threads.forEach(panels.count) { index in
        precision.packColumns(
          panels[index].count, depth: tokens, stride: columns, x + panels[index].lowerBound,
          into: words + index * steps * panelWidth)
      }
    }
    rows = columns
    self.columns = tokens
    self.precision = precision
    self.steps = steps
    self.words = words
  }

  /// Distance between panels.
  var stride: Int { steps * panelWidth }

  borrowing func withPanels<Result>(_ body: (UnsafePointer<UInt32>) -> Result) -> Result {
    words.withUnsafe { body($0.baseAddress!) }
  }
}
