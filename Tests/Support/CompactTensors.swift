import EspalierCore
import EspalierIO

/// Small compact matrices, made one element at a time.
public struct CompactTensors {
  public let rows: Int
  public let columns: Int
  /// The kept values of all rows, as bits.
  public private(set) var values: [UInt32] = []
  public private(set) var bitmask: [UInt8] = []
  public private(set) var rowOffsets: [Int64] = []
  /// All elements, as bits; what is not kept is 0.
  public private(set) var dense: [UInt32] = []
  public let dtype: DType

  /// Random bits of a type, which are kept with a probability that differs from row to row; or two of each four.
  public init(rows: Int, columns: Int, dtype: DType, isTwoOfFour: Bool = false, seed: UInt64) {
    (self.rows, self.columns, self.dtype) = (rows, columns, dtype)
    var random = SeededRandom(seed: seed)
    for row in 0..<rows {
      let share = row == 0 ? 1 : row == 1 ? 0 : Double.random(in: 0...1, using: &random)
      rowOffsets.append(Int64(values.count))
      var bits = [UInt8](repeating: 0, count: (columns + 7) / 8)
      var group: Set<Int> = []
      for column in 0..<columns {
        if column % 4 == 0 { group = Set([0, 1, 2, 3].shuffled(using: &random).prefix(2)) }
        let isKept =
          isTwoOfFour ? group.contains(column % 4) : Double.random(in: 0..<1, using: &random) < share
        guard isKept else {
          dense.append(0)
          continue
        }
        bits[column / 8] |= 1 << UInt8(column % 8)
        // Normal numbers of every type, since NaNs need not survive a conversion.
        let value = Float(Int.random(in: -1000...1000, using: &random)) / 64
        let pattern =
          switch dtype {
          case .f32: value.bitPattern
          case .bf16: value.bitPattern >> 16
          default: UInt32(Float16(value).bitPattern)
          }
        values.append(pattern)
        dense.append(pattern)
      }
      bitmask += bits
    }
  }

  /// Bits of elements as the bytes of a file.
  public func bytes(_ elements: [UInt32]) -> [UInt8] {
    elements.flatMap { element in
      (0..<dtype.byteCount).map { UInt8(truncatingIfNeeded: element >> UInt32(8 * $0)) }
    }
  }

  /// Writes a checkpoint with the module `m`, whose tensors begin at odd places, and its dense form as `dense`.
  public func write(to folder: String, isTwoOfFour: Bool = false) throws {
    try Folder.create(folder)
    try Folder.writeAtomically(Array("{}".utf8), to: folder + "/config.json")
    let offsets = isTwoOfFour ? [] : [("m.row_offsets", DType.i64, [rows])]
    let shape = isTwoOfFour ? [rows, columns / 2] : [values.count]
    var writer = try SafetensorsWriter(
      path: folder + "/model.safetensors",
      tensors: [
        ("before", .u8, [1]), ("m.shape", .i64, isTwoOfFour ? [2, 1] : [2]), ("m.compressed", dtype, shape),
        ("m.bitmask", .u8, [rows, (columns + 7) / 8]),
      ] + offsets + [("dense", dtype, [rows, columns])])
    try writer.append([7] as [UInt8])
    try writer.append([Int64(rows), Int64(columns)])
    try writer.append(bytes(values))
    try writer.append(bitmask)
    if !isTwoOfFour { try writer.append(rowOffsets) }
    try writer.append(bytes(dense))
    try writer.finish()
  }
}
