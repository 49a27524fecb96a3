import CKernels
import EspalierCore
import EspalierIO

/// Rows that one thread takes at a time in elementwise kernels.
private let rowsAtATime = 64

/// RMS norm of rows: `x * weight / sqrt(mean(x^2) + epsilon)`; weight `1 x columns`.
///
/// - Parameters:
///   - input: `tokens x columns`.
///   - first: the first row of the input; as many are taken as the output has.
public func rmsNorm(
  _ input: borrowing Matrix, from first: Int = 0, weight: borrowing Matrix, epsilon: Float,
  into output: inout Matrix
) {
  let rows = output.rows
  let columns = input.columns
  precondition(weight.columns == columns && output.columns == columns)
  precondition(first >= 0 && first + rows <= input.rows)
  input.elements.withUnsafe { input in
    weight.elements.withUnsafe { weight in
      output.elements.withUnsafeMutable { output in
        nonisolated(unsafe) let (x, w, y) = (
          input.baseAddress! + first * columns, weight.baseAddress!, output.baseAddress!
        )
        let blocks = parts(of: rows, size: rowsAtATime)
        Threads.forEach(blocks.count) { index in
          for row in blocks[index] {
            espalier_rms_norm(columns, epsilon, x + row * columns, w, y + row * columns)
          }
        }
      }
    }
  }
}

/// `gate = silu(gate) * up`, elementwise.
public func siluMultiply(_ up: borrowing Matrix, into gate: inout Matrix) {
  let rows = gate.rows
  let columns = gate.columns
  precondition(up.rows == rows && up.columns == columns)
  up.elements.withUnsafe { up in
    gate.elements.withUnsafeMutable { gate in
      nonisolated(unsafe) let (x, y) = (up.baseAddress!, gate.baseAddress!)
      let blocks = parts(of: rows, size: rowsAtATime)
      Threads.forEach(blocks.count) { index in
        let block = blocks[index]
        espalier_silu_multiply(
          block.count * columns, x + block.lowerBound * columns, y + block.lowerBound * columns)
      }
    }
  }
}

/// Rotary position embedding of every head of every row, in place.
///
/// - Parameters:
///   - states: `tokens x (heads * headSize)`; sequences of `length` tokens follow each other, each starting at position 0.
///   - cosine, sine: `positions x (headSize / 2)`, at least `length` positions.
public func rotate(
  _ states: inout Matrix, headSize: Int, length: Int, cosine: borrowing Matrix, sine: borrowing Matrix
) {
  let rows = states.rows
  let columns = states.columns
  let half = headSize / 2
  precondition(
    columns % headSize == 0 && cosine.columns == half && sine.columns == half
      && cosine.rows >= min(length, rows))
  states.elements.withUnsafeMutable { states in
    cosine.elements.withUnsafe { cosine in
      sine.elements.withUnsafe { sine in
        nonisolated(unsafe) let (x, c, s) = (states.baseAddress!, cosine.baseAddress!, sine.baseAddress!)
        let blocks = parts(of: rows, size: rowsAtATime)
        Threads.forEach(blocks.count) { index in
          for row in blocks[index] {
            let position = row % length
            for head in stride(from: 0, to: columns, by: headSize) {
              espalier_rope(half, c + position * half, s + position * half, x + row * columns + head)
            }
          }
        }
      }
    }
  }
}

/// Rows of an embedding table: `output[i] = table[ids[i]]`.
///
/// - Throws: bad input where an id is outside of the table; an I/O error where it cannot be read.
public func embed(_ ids: [Int32], table: LinearWeight, into output: inout Matrix) throws {
  precondition(output.rows == ids.count && output.columns == table.columns)
  let columns = table.columns
  for id in ids where id < 0 || Int(id) >= table.rows {
    throw EspalierError.badInput(
      "token id \(id) is outside of the embedding of \(table.rows) rows; tokenizer and model do not belong together.",
      subject: table.tensor.file.path)
  }
  output.elements.withUnsafeMutable { output in
    for (index, id) in ids.enumerated() {
      table.load(Int(id)..<Int(id) + 1, into: output.baseAddress! + index * columns)
      // Rows lie anywhere in the table, and the system maps pages around each: soon all of it would be held.
      if index % 64 == 63 { table.release(0..<table.rows) }
    }
    table.release(0..<table.rows)
  }
  try table.tensor.file.requireReadable()
}

extension Matrix {
  /// The first element that is infinite or not a number, as (row, column).
  public borrowing func firstNotFinite() -> (row: Int, column: Int)? {
    let count = rows * columns
    let found = elements.withUnsafe { count == 0 ? 0 : espalier_first_not_finite_f32(count, $0.baseAddress!) }
    return found < count ? (found / columns, found % columns) : nil
  }
}
