import CKernels
import COpenBLAS
import EspalierCore

/// Rows of a weight that are converted and multiplied at a time: small enough for a converted panel to stay in the cache.
private let panelRows = 128

/// `output = input W^T (+ output)`: input `tokens x columns`, W `rows x columns`, output `tokens x rows`.
///
/// Panels of W's rows are shared among the threads; each is converted to f32 once.
public func linear(
  _ input: borrowing Matrix, _ weight: LinearWeight, adding: Bool = false, into output: inout Matrix
) {
  let tokens = input.rows
  let rows = weight.rows
  let columns = weight.columns
  precondition(input.columns == columns && output.rows == tokens && output.columns == rows)
  guard tokens > 0, rows > 0, columns > 0 else { return }
  let panels = parts(of: rows, size: panelRows)
  input.elements.withUnsafe { input in
    output.elements.withUnsafeMutable { output in
      nonisolated(unsafe) let x = input.baseAddress!
      nonisolated(unsafe) let y = output.baseAddress!
      Threads.forEach(panels.count, scratch: { Buffer<Float>(count: min(panelRows, rows) * columns) }) {
        scratch, index in
        let panel = panels[index]
        scratch.withUnsafeMutable { w in
          weight.load(panel, into: w.baseAddress!)
          cblas_sgemm(
            CblasRowMajor, CblasNoTrans, CblasTrans, blasint(tokens), blasint(panel.count), blasint(columns),
            1, x, blasint(columns),
            w.baseAddress!, blasint(columns), adding ? 1 : 0, y + panel.lowerBound, blasint(rows))
        }
      }
    }
  }
}

/// Adds `bias`, `1 x columns`, to every row of `output`.
public func addToRows(_ bias: borrowing Matrix, into output: inout Matrix) {
  let rows = output.rows
  let columns = output.columns
  precondition(bias.columns == columns)
  bias.elements.withUnsafe { bias in
    output.elements.withUnsafeMutable { output in
      for row in 0..<rows { espalier_add(columns, bias.baseAddress!, output.baseAddress! + row * columns) }
    }
  }
}
