import EspalierCore
import Synchronization

/// A matrix of weights stored as a bit mask and the values that it keeps, as compressed-tensors 0.14 stores it: `sparse-bitmask`
/// (`sparse_bitmask.py`), or `sparse-24-bitmask` (`sparse_24_bitmask.py`) if every row keeps half of its weights.
///
/// The module `M` has the tensors `M.shape`, `M.compressed`, `M.bitmask` and, in `sparse-bitmask` alone, `M.row_offsets`, in place of
/// `M.weight`. What the mask does not keep is +0; a kept value may be zero too.
public struct CompactMatrix: Sendable {
  /// `M.weight`.
  public let name: String
  public let rows: Int
  public let columns: Int
  public let dtype: DType
  /// `rows` and `columns` as two I64.
  let shape: StoredTensor
  /// The kept values, row after row.
  public let values: StoredTensor
  /// `rows x ceil(columns / 8)` bytes: bit `j % 8`, the least significant first, of byte `j / 8` is 1 if the value in column j is kept.
  public let bitmask: StoredTensor
  /// For each row the index of its first value, as I64; nil if every row keeps half of its weights.
  public let rowOffsets: StoredTensor?

  private let isChecked = Flag()

  /// The values first.
  public var parts: [StoredTensor] { [values, bitmask, shape] + (rowOffsets.map { [$0] } ?? []) }

  /// Kept values.
  public var count: Int { values.entry.range.count / dtype.byteCount }

  /// Bytes of the mask of one row.
  public var maskRowBytes: Int { Mask.rowBytes(columns) }

  /// The end of the plain name.
  public static let weightSuffix = ".weight"

  /// The parts of a module's compact weight.
  public enum Part: String, CaseIterable {
    case rowOffsets = "row_offsets"
    case shape
    case values = "compressed"
    case bitmask
  }

  /// The module of a tensor that is the values of a compact matrix, if its mask exists too.
  static func module(ofValues name: String, exists: (String) -> Bool) -> String? {
    let suffix = "." + Part.values.rawValue
    guard name.hasSuffix(suffix) else { return nil }
    let module = String(name.dropLast(suffix.count))
    return exists(Self.name(.bitmask, of: module)) ? module : nil
  }

  public static func name(_ part: Part, of module: String) -> String { "\(module).\(part.rawValue)" }

  /// The compact weight of a module, checked as far as headers and the shape tell; see ``check()``.
  ///
  /// - Throws: bad input that names the file and the tensor.
  init(module: String, tensor: (String) throws -> StoredTensor?) throws {
    guard let values = try tensor(Self.name(.values, of: module)),
      let bitmask = try tensor(Self.name(.bitmask, of: module))
    else { throw EspalierError.internalFault("the module \(module) has no compact weight.") }
    guard let shape = try tensor(Self.name(.shape, of: module)) else {
      throw EspalierError.badInput(
        "the tensor \(Self.name(.shape, of: module)) is missing beside \(values.name) and \(bitmask.name).",
        subject: values.file.path)
    }
    let rowOffsets = try tensor(Self.name(.rowOffsets, of: module))
    try self.init(
      name: module + Self.weightSuffix, shape: shape, values: values, bitmask: bitmask, rowOffsets: rowOffsets
    )
  }

  private init(
    name: String, shape: StoredTensor, values: StoredTensor, bitmask: StoredTensor, rowOffsets: StoredTensor?
  ) throws {
    let sizes = try Self.sizes(shape)
    let (rows, columns) = (sizes.rows, sizes.columns)
    func require(_ tensor: StoredTensor, _ dtype: DType, _ shape: [Int]) throws {
      guard tensor.dtype == dtype, tensor.shape == shape else {
        throw EspalierError.badInput(
          "the tensor \(tensor.name) is \(tensor.dtype?.rawValue ?? "?") \(tensor.shape), not \(dtype.rawValue) \(shape) as its matrix of \(rows) x \(columns) implies.",
          subject: tensor.file.path)
      }
    }
    guard let dtype = values.dtype, dtype.isWeight else {
      throw EspalierError.badInput(
        "the tensor \(values.name) is not F32, BF16 or F16; quantized checkpoints cannot be pruned.",
        subject: values.file.path)
    }
    try require(bitmask, .u8, [rows, Mask.rowBytes(columns)])
    if let rowOffsets {
      try require(rowOffsets, .i64, [rows])
      guard values.shape.count == 1, values.shape[0] <= rows * columns else {
        throw EspalierError.badInput(
          "the tensor \(values.name) has shape \(values.shape), but the matrix of \(rows) x \(columns) needs a list of at most that many values.",
          subject: values.file.path)
      }
    } else {
      guard columns % 4 == 0 else {
        throw EspalierError.badInput(
          "the matrix of \(values.name) has \(columns) columns, which are no groups of 4, and \(name.dropLast(Self.weightSuffix.count)).\(Part.rowOffsets.rawValue) is missing.",
          subject: values.file.path)
      }
      try require(values, dtype, [rows, columns / 2])
    }
    self.name = name
    (self.rows, self.columns) = (rows, columns)
    self.dtype = dtype
    self.shape = shape
    self.values = values
    self.bitmask = bitmask
    self.rowOffsets = rowOffsets
  }

  /// Rows and columns: I64 of shape [2], or [2, 1].
  private static func sizes(_ tensor: StoredTensor) throws -> (rows: Int, columns: Int) {
    guard tensor.dtype == .i64, tensor.shape == [2] || tensor.shape == [2, 1] else {
      throw EspalierError.badInput(
        "the tensor \(tensor.name) is \(tensor.dtype?.rawValue ?? "?") \(tensor.shape), not two I64; only matrices are read in compact form.",
        subject: tensor.file.path)
    }
    let sizes = tensor.withBytes { bytes in (integer(bytes, 0), integer(bytes, 1)) }
    try tensor.file.requireReadable()
    // With no columns, the parts of any number of rows would be empty.
    let sides = 1...1 << 31
    guard sides.contains(sizes.0), sides.contains(sizes.1), elementCount(of: [sizes.0, sizes.1, 8]) != nil
    else {
      throw EspalierError.badInput(
        "the tensor \(tensor.name) says \(sizes.0) x \(sizes.1), which are not the sizes of a matrix.",
        subject: tensor.file.path)
    }
    return (sizes.0, sizes.1)
  }

  /// Some of the rows, for the time of a closure.
  public struct Rows {
    public let range: Range<Int>
    /// The mask of the rows.
    public let bitmask: UnsafeRawBufferPointer
    /// The values of the rows, row after row.
    public let values: UnsafeRawBufferPointer
  }

  /// Where the values of some rows lie.
  ///
  /// Even if the file has changed since it was checked, the range lies within the values.
  func valueBytes(_ rows: Range<Int>, using scratch: inout ReadScratch) -> Range<Int> {
    precondition(rows.lowerBound >= 0 && rows.upperBound <= self.rows)
    let bounds: (Int, Int)
    if rows.isEmpty {
      bounds = (0, 0)
    } else if let rowOffsets {
      let end = min(rows.upperBound + 1, self.rows)
      bounds = rowOffsets.withBytes(rows.lowerBound * 8..<end * 8, using: &scratch) { offsets in
        (integer(offsets, 0), rows.upperBound < self.rows ? integer(offsets, rows.count) : count)
      }
    } else {
      bounds = (rows.lowerBound * (columns / 2), rows.upperBound * (columns / 2))
    }
    let first = min(max(0, bounds.0), count)
    return first * dtype.byteCount..<min(max(first, bounds.1), count) * dtype.byteCount
  }

  /// For IO and Kernels only: some of the rows, valid within `body`.
  public func withRows<Result>(
    _ rows: Range<Int>, using scratch: inout CompactScratch, _ body: (Rows) throws -> Result
  ) rethrows -> Result {
    try withRows(rows, &scratch.values, &scratch.bitmask, body)
  }

  private func withRows<Result>(
    _ rows: Range<Int>, _ valueScratch: inout ReadScratch, _ maskScratch: inout ReadScratch,
    _ body: (Rows) throws -> Result
  ) rethrows -> Result {
    let bytes = valueBytes(rows, using: &valueScratch)
    return try bitmask.withBytes(maskBytes(rows), using: &maskScratch) { bitmask in
      try values.withBytes(bytes, using: &valueScratch) { values in
        try body(Rows(range: rows, bitmask: bitmask, values: values))
      }
    }
  }

  private func maskBytes(_ rows: Range<Int>) -> Range<Int> {
    rows.lowerBound * maskRowBytes..<rows.upperBound * maskRowBytes
  }

  /// Gives the mapped pages of some rows back to the system.
  public func release(_ rows: Range<Int>) {
    var scratch = ReadScratch()
    values.release(valueBytes(rows, using: &scratch))
    bitmask.release(maskBytes(rows))
  }

  /// Reads the mask the first time, and checks that it belongs to the values.
  ///
  /// - Throws: bad input that names the file, the tensor and the row: the rows' values must follow each other and be as many as their
  ///   bits, all values must belong to a row, and bits past the last column must be 0. An I/O error if it cannot be read.
  public func check() throws {
    guard !isChecked.isSet else { return }
    try checkMask()
    isChecked.set()
  }

  private func checkMask() throws {
    var maskScratch = ReadScratch()
    var offsetScratch = ReadScratch()
    var first = 0
    for band in EspalierCore.parts(of: rows, size: max(1, (1 << 20) / max(1, maskRowBytes))) {
      let problem = bitmask.withBytes(maskBytes(band), using: &maskScratch) { mask -> String? in
        guard let rowOffsets else { return self.problem(band, mask, offsets: nil, &first) }
        return rowOffsets.withBytes(band.lowerBound * 8..<band.upperBound * 8, using: &offsetScratch) {
          self.problem(band, mask, offsets: $0, &first)
        }
      }
      bitmask.release(maskBytes(band))
      for part in parts { try part.file.requireReadable() }
      if let problem {
        throw EspalierError.badInput(problem + "; the file is damaged.", subject: bitmask.file.path)
      }
    }
    guard first == count else {
      throw EspalierError.badInput(
        "the tensor \(values.name) has \(count) values, but \(bitmask.name) keeps \(first); the file is damaged.",
        subject: values.file.path)
    }
  }

  /// - Parameter first: the index of the first value of the rows, which becomes that of the rows after them.
  private func problem(
    _ rows: Range<Int>, _ mask: UnsafeRawBufferPointer, offsets: UnsafeRawBufferPointer?, _ first: inout Int
  ) -> String? {
    let (width, spare) = (maskRowBytes, columns % 8)
    for row in rows {
      let bits = UnsafeRawBufferPointer(
        rebasing: mask[(row - rows.lowerBound) * width..<(row - rows.lowerBound + 1) * width])
      if let last = bits.last, spare > 0, last >> UInt8(spare) != 0 {
        return "the tensor \(bitmask.name) has bits past column \(columns) in row \(row)"
      }
      if let offsets, integer(offsets, row - rows.lowerBound) != first {
        return
          "the tensor \(rowOffsets?.name ?? "") says that row \(row) begins at value \(integer(offsets, row - rows.lowerBound)), but the mask keeps \(first) before it"
      }
      let kept = setBits(bits)
      if offsets == nil, kept != columns / 2 {
        return "the tensor \(bitmask.name) keeps \(kept) weights of row \(row), not half of \(columns)"
      }
      first += kept
    }
    return nil
  }
}

/// Whether something has been done.
private final class Flag: Sendable {
  private let value = Atomic(false)
  var isSet: Bool { value.load(ordering: .relaxed) }
  func set() { value.store(true, ordering: .relaxed) }
}

/// What the rows of a compact matrix are read into if its file is not mapped.
public struct CompactScratch: ~Copyable {
  fileprivate var values = ReadScratch()
  fileprivate var bitmask = ReadScratch()

  public init() {}
}

private func integer(_ bytes: UnsafeRawBufferPointer, _ index: Int) -> Int {
  Int(Int64(littleEndian: bytes.loadUnaligned(fromByteOffset: index * 8, as: Int64.self)))
}

private func setBits(_ bytes: UnsafeRawBufferPointer) -> Int {
  var count = 0
  let words = bytes.count / 8
  for word in 0..<words {
    count += bytes.loadUnaligned(fromByteOffset: word * 8, as: UInt64.self).nonzeroBitCount
  }
  for index in words * 8..<bytes.count { count += bytes[index].nonzeroBitCount }
  return count
}
