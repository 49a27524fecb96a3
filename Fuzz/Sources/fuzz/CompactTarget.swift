import EspalierCore
import EspalierKernels

@testable import EspalierIO

/// A compact matrix: its type, whether it has row offsets, what its header says of rows, columns and values, and then the bytes of the
/// shape, the offsets, the mask and the values.
enum CompactTarget: FuzzTarget {
  static let name = "compact"
  static let words = ["\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}", "\u{1}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}"]

  private static let types = [DType.f32, .bf16, .f16, .u8]

  static func seeds() -> [[UInt8]] {
    // Type and form, rows, columns, values.
    let ragged = bytes(0b101, 1) + bytes(2, 1) + bytes(10, 1) + bytes(3, 2)
    let shape = bytes(2, 8) + bytes(10, 8)
    let offsets = bytes(0, 8) + bytes(2, 8)
    let twoOfFour = bytes(0b001, 1) + bytes(2, 1) + bytes(8, 1) + bytes(8, 2) + bytes(2, 8) + bytes(8, 8)
    return [
      ragged + shape + offsets + [1, 2, 8, 0] + [1, 2, 3, 4, 5, 6],
      twoOfFour + [0b1100_0011, 0b1001_0110] + Array(1...16),
      bytes(0b100, 1) + bytes(1, 1) + bytes(64, 1) + bytes(0, 2) + bytes(1, 8) + bytes(64, 8) + bytes(0, 8)
        + bytes(0, 8),
    ]
  }

  static func run(_ bytes: [UInt8]) throws {
    var taker = Taker(bytes)
    let flags = taker.number(1)
    let type = types[Int(flags & 3)]
    let hasOffsets = flags & 4 != 0
    // Few elements, so that there are many executions.
    let (rows, columns) = (Int(taker.number(1)) % 6, Int(taker.number(1)) % 90)
    let count = Int(taker.number(2)) % 512
    let width = (columns + 7) / 8
    func tensor(_ part: CompactMatrix.Part, _ type: DType, _ shape: [Int]) throws -> (String, StoredTensor) {
      let size = shape.reduce(type.byteCount, *)
      var buffer = Buffer<UInt8>(count: size)
      for (index, byte) in taker.rest.prefix(size).enumerated() { buffer[index] = byte }
      taker.drop(size)
      let name = CompactMatrix.name(part, of: "m")
      let entry = TensorEntry(name: name, type: type.rawValue, shape: shape, range: 0..<size)
      return (name, try StoredTensor(entry: entry, file: FileBytes(buffer, of: "file")))
    }
    var parts = [try tensor(.shape, .i64, hasOffsets ? [2] : [2, 1])]
    if hasOffsets { parts.append(try tensor(.rowOffsets, .i64, [rows])) }
    parts.append(try tensor(.bitmask, .u8, [rows, width]))
    parts.append(try tensor(.values, type, hasOffsets ? [count] : [rows, columns / 2]))
    let tensors = Dictionary(parts, uniquingKeysWith: { first, _ in first })
    let matrix = try CompactMatrix(module: "m") { tensors[$0] }
    // Rows can be read even if nothing fits together, as after a change of the file.
    var scratch = CompactScratch()
    for row in 0..<matrix.rows {
      matrix.withRows(row..<row + 1, using: &scratch) { rows in
        require(rows.bitmask.count == width, "the mask of a row has another size")
      }
    }
    let weight = try LinearWeight(.compact(matrix))
    let dense = weight.maskedBytes(0..<weight.rows)
    require(dense.withUnsafe { Array($0) } == expanded(matrix), "the matrix is expanded to other values")
    // What is encoded again comes back.
    let form = try CompactForm(weight) { _ in }
    var kept = 0
    for band in CompactForm.bands(of: weight) {
      kept += CompactForm.encode(band, of: weight, .bitmask).counts.reduce(0, +)
    }
    require(kept == form.count, "the matrix is encoded to another number of values")
    _ = weight.matrix(0..<weight.rows)
  }

  /// The matrix, one element at a time.
  private static func expanded(_ matrix: CompactMatrix) -> [UInt8] {
    let size = matrix.dtype.byteCount
    let values = matrix.values.withBytes { Array($0) }
    let mask = matrix.bitmask.withBytes { Array($0) }
    var output = [UInt8](repeating: 0, count: matrix.rows * matrix.columns * size)
    var next = 0
    for row in 0..<matrix.rows {
      for column in 0..<matrix.columns {
        guard mask[row * matrix.maskRowBytes + column / 8] >> UInt8(column % 8) & 1 == 1 else { continue }
        for byte in 0..<size { output[(row * matrix.columns + column) * size + byte] = values[next + byte] }
        next += size
      }
    }
    return output
  }
}
