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
  public init(rounding matrix: inout Matrix, _ precision: Precision) {
    let (rows, columns) = (matrix.rows, matrix.columns)
    let steps = precision.steps(columns)
    let panels = parts(of: rows, size: panelWidth)
    var words = Buffer<UInt32>(count: panels.count * steps * panelWidth)
    matrix.elements.withUnsafeMutable { x in
      words.withUnsafeMutable { words in
        nonisolated(unsafe) let (x, panel) = (x.baseAddress!, words.baseAddress!)
        let slices = parts(of: columns, size: runSteps * precision.valuesPerStep)
        Threads.forEach(panels.count, scratch: { Buffer<UInt32>(count: panelWidth * runSteps) }) {
          scratch, index in
          scratch.withUnsafeMutable { scratch in
            let scratch = scratch.baseAddress!
            let (range, panel) = (panels[index], panel + index * steps * panelWidth)
            for slice in slices {
              let target = panel + slice.lowerBound / precision.valuesPerStep * panelWidth
              let start = x + range.lowerBound * columns + slice.lowerBound
              guard precision == .bf16 else {
                start.withMemoryRebound(to: UInt32.self, capacity: 1) {
                  espalier_pack_rows(range.count, slice.count, columns, $0, target)
                }
                continue
              }
              let count = precision.steps(slice.count)
              for row in 0..<range.count {
                let line = scratch + row * runSteps
                line[count - 1] = 0
                line.withMemoryRebound(to: UInt16.self, capacity: 2 * runSteps) {
                  espalier_round_bf16(slice.count, start + row * columns, $0)
                }
              }
              espalier_pack_rows(range.count, count, runSteps, scratch, target)
            }
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
    var words = Buffer<UInt32>(count: panels.count * steps * panelWidth)
    words.withUnsafeMutable { words in
      nonisolated(unsafe) let (x, words) = (matrix, words.baseAddress!)
      Threads.forEach(panels.count) { index in
        let (panel, source) = (words + index * steps * panelWidth, x + panels[index].lowerBound)
        switch precision {
        case .f32: espalier_pack_columns_f32(panels[index].count, tokens, columns, source, panel)
        case .bf16: espalier_pack_columns_bf16(panels[index].count, tokens, columns, source, panel)
        }
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
