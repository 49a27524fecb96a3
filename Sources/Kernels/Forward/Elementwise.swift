import CKernels
import EspalierCore
import EspalierIO

/// Rotary position embedding of every head of every row, in place.
///
/// - Parameters:
///   - states: `tokens x (heads * headSize)`; sequences of `length` tokens follow each other, each starting at position `past`.
///   - start: the first value of a head that is rotated; `2 * cosine.columns` of them are.
///   - isInterleaved: whether pairs are neighbours, rather than halves apart.
///   - cosine, sine: `positions x (rotated / 2)`, at least `past + length` positions.
public func rotate(
  _ states: inout Matrix, headSize: Int, from start: Int = 0, isInterleaved: Bool = false, length: Int,
  past: Int = 0, cosine: borrowing Matrix, sine: borrowing Matrix, on device: Device
) {
  let columns = states.columns
  let half = cosine.columns
  precondition(
    columns % headSize == 0 && start >= 0 && start + 2 * half <= headSize && sine.columns == half
      && min(cosine.rows, sine.rows) >= past + min(length, states.rows))
  let (cosine, sine) = (cosine.rowSpans, sine.rowSpans)
  let rows = states.mutableRowSpans
  device.forEachBlock(ofRows: rows.rows) {
    for row in $0 {
      var line = rows[row]
      let (cosine, sine) = (cosine[past + row % length], sine[past + row % length])
      for head in stride(from: start, to: columns, by: headSize) {
        var pairs = line.part(head..<head + 2 * half)
        if isInterleaved {
          espalier_rope_interleaved(cosine, sine, &pairs)
        } else {
          espalier_rope(cosine, sine, &pairs)
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
  _ input: borrowing Matrix, _ runs: [(source: Int, target: Int, count: Int)], into output: inout Matrix,
  on device: Device
) {
  let (width, columns) = (input.columns, output.columns)
  precondition(output.rows == input.rows)
  precondition(
    runs.allSatisfy {
      $0.source >= 0 && $0.target >= 0 && $0.count >= 0 && $0.source + $0.count <= width
        && $0.target + $0.count <= columns
    })
  let input = input.rowSpans
  let output = output.mutableRowSpans
  device.forEachBlock(ofRows: output.rows) {
    for row in $0 {
      var line = output[row]
      for run in runs {
        var target = line.part(run.target..<run.target + run.count)
        target.copy(input[row].extracting(run.source..<run.source + run.count))
      }
    }
  }
}

/// Copies some rows: `output[i] = input[rows[i]]`.
public func gatherRows(
  _ input: borrowing Matrix, _ rows: [Int32], into output: inout Matrix, on device: Device
) {
  precondition(output.rows == rows.count && output.columns == input.columns)
  let input = input.rowSpans
  let output = output.mutableRowSpans
  device.forEachBlock(ofRows: rows.count) {
    for index in $0 {
      var line = output[index]
      line.copy(input[Int(rows[index])])
    }
  }
}

/// `output[rows[i]] += factors[i] * input[i]`.
public func scatterRows(
  _ input: borrowing Matrix, _ rows: [Int32], times factors: [Float], into output: inout Matrix
) {
  precondition(
    output.columns == input.columns && input.rows == rows.count && factors.count == rows.count)
  let input = input.rowSpans
  let output = output.mutableRowSpans
  for (index, row) in rows.enumerated() {
    var line = output[Int(row)]
    espalier_add_weighted(factors[index], input[index], &line)
  }
}

/// The root of the mean square of every row.
public func rootMeanSquares(_ states: borrowing Matrix, on device: Device) -> [Float] {
  var squares = Buffer<Double>(count: states.rows)
  do {
    let (rows, squares) = (states.rowSpans, squares.mutableRowSpans(columns: 1))
    device.forEachBlock(ofRows: rows.rows) {
      for row in $0 {
        var square = squares[row]
        square[0] = espalier_dot(rows[row], rows[row])
      }
    }
  }
  let columns = Double(max(1, states.columns))
  return (0..<states.rows).map { Float((squares[$0] / columns).squareRoot()) }
}

/// `output[i] = factors[i] * input[i]` for every row.
public func scaleRows(
  _ input: borrowing Matrix, by factors: [Float], into output: inout Matrix, on device: Device
) {
  precondition(
    output.rows == input.rows && output.columns == input.columns && factors.count == input.rows)
  let (input, output) = (input.rowSpans, output.mutableRowSpans)
  device.forEachBlock(ofRows: output.rows) {
    for row in $0 {
      let (factor, from) = (factors[row], input[row])
      var line = output[row]
      for column in line.indices { line[column] = factor * from[column] }
    }
  }
}

/// Rows of an embedding table: `output[i] = table[ids[i]]`.
///
/// - Throws: bad input if an id is outside of the table; an I/O error if the table cannot be read.
public func embed(_ ids: [Int32], table: LinearWeight, into output: inout Matrix) throws {
  precondition(output.rows == ids.count && output.columns == table.columns)
  for id in ids where id < 0 || Int(id) >= table.rows {
    throw EspalierError.badInput(
      "token id \(id) is outside of the embedding of \(table.rows) rows; tokenizer and model do not belong together.",
      subject: table.tensor.path)
  }
  let output = output.mutableRowSpans
  for (index, id) in ids.enumerated() {
    var row = output[index]
    table.load(Int(id)..<Int(id) + 1, into: &row)
    // Rows lie anywhere in the table, and the system maps the pages around each: soon it would hold the whole table.
    if index % 64 == 63, !table.keepsPages { table.release(0..<table.rows) }
  }
  if !table.keepsPages { table.release(0..<table.rows) }
  try table.tensor.requireReadable()
}

extension Matrix {
  /// The first element that is infinite or not a number, as (row, column); nil if all are finite.
  public borrowing func firstNotFinite() -> (row: Int, column: Int)? {
    let found = elements.span.withUnsafeBytes {
      $0.baseAddress.map { espalier_first_not_finite_f32(elements.count, $0) } ?? 0
    }
    return found < elements.count ? (found / columns, found % columns) : nil
  }
}
