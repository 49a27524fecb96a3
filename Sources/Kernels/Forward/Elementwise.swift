import CKernels
import EspalierCore
import EspalierIO

/// Rows that one thread takes at a time in elementwise kernels.
private let rowsAtATime = 64

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
///   - start: the first value of a head that is rotated; `2 * cosine.columns` of them are.
///   - isInterleaved: whether pairs are neighbours, rather than halves apart.
///   - cosine, sine: `positions x (rotated / 2)`, at least `length` positions.
public func rotate(
  _ states: inout Matrix, headSize: Int, from start: Int = 0, isInterleaved: Bool = false, length: Int,
  cosine: borrowing Matrix, sine: borrowing Matrix
) {
  let columns = states.columns
  let half = cosine.columns
  precondition(
    columns % headSize == 0 && start >= 0 && start + 2 * half <= headSize && sine.columns == half
      && min(cosine.rows, sine.rows) >= min(length, states.rows))
  cosine.elements.withUnsafe { cosine in
    sine.elements.withUnsafe { sine in
      nonisolated(unsafe) let (c, s) = (cosine.baseAddress!, sine.baseAddress!)
      forEachBlock(of: &states) { rows, x in
        for (index, row) in rows.enumerated() {
          let angle = row % length * half
          for head in stride(from: index * columns + start, to: (index + 1) * columns, by: headSize) {
            if isInterleaved {
              espalier_rope_interleaved(half, c + angle, s + angle, x + head)
            } else {
              espalier_rope(half, c + angle, s + angle, x + head)
            }
          }
        }
      }
    }
  }
}

/// Copies some columns of every row: `output[row, target + i] = input[row, source + i]`.
///
/// - Parameters:
///   - runs: columns of the input, columns of the output and how many, for each run.
public func copyColumns(
  _ input: borrowing Matrix, _ runs: [(source: Int, target: Int, count: Int)], into output: inout Matrix
) {
  let (rows, width, columns) = (input.rows, input.columns, output.columns)
  precondition(output.rows == rows)
  precondition(
    runs.allSatisfy {
      $0.source >= 0 && $0.target >= 0 && $0.count >= 0 && $0.source + $0.count <= width
        && $0.target + $0.count <= columns
    })
  input.elements.withUnsafe { input in
    nonisolated(unsafe) let x = input.baseAddress!
    forEachBlock(of: &output) { rows, y in
      for (index, row) in rows.enumerated() {
        for run in runs {
          (y + index * columns + run.target).update(from: x + row * width + run.source, count: run.count)
        }
      }
    }
  }
}

/// Copies some rows: `output[i] = input[rows[i]]`.
public func gatherRows(_ input: borrowing Matrix, _ rows: [Int32], into output: inout Matrix) {
  let (count, columns) = (input.rows, input.columns)
  precondition(output.rows == rows.count && output.columns == columns)
  precondition(rows.allSatisfy { $0 >= 0 && Int($0) < count })
  input.elements.withUnsafe { input in
    output.elements.withUnsafeMutable { output in
      for (index, row) in rows.enumerated() {
        (output.baseAddress! + index * columns).update(
          from: input.baseAddress! + Int(row) * columns, count: columns)
      }
    }
  }
}

/// `output[rows[i]] += factors[i] * input[i]`.
public func scatterRows(
  _ input: borrowing Matrix, _ rows: [Int32], times factors: [Float], into output: inout Matrix
) {
  let (count, columns) = (output.rows, input.columns)
  precondition(output.columns == columns && input.rows == rows.count && factors.count == rows.count)
  precondition(rows.allSatisfy { $0 >= 0 && Int($0) < count })
  input.elements.withUnsafe { input in
    output.elements.withUnsafeMutable { output in
      for (index, row) in rows.enumerated() {
        espalier_add_weighted(
          columns, factors[index], input.baseAddress! + index * columns,
          output.baseAddress! + Int(row) * columns)
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
