import CKernels
import EspalierCore
import EspalierIO

/// The weight of a linear layer (`rows x columns`, d_out x d_in) as the checkpoint stores it, dense or compact, with an optional mask.
///
/// It owns no memory: rows are expanded, converted to f32, and masked, as they are needed.
public struct LinearWeight: Sendable {
  public let tensor: CheckpointTensor
  public let rows: Int
  public let columns: Int
  public let mask: Mask?
  /// Whether its pages stay in memory after a product; otherwise they are given back at once.
  public let keepsPages: Bool
  public let dtype: DType

  /// The weight as the pipeline left it; as the checkpoint has it if `pruned` is nil.
  ///
  /// - Parameter order: how the tensor is stored. One stored by columns is held in memory as a copy by rows.
  /// - Throws: bad input if the new weights have another shape or type than the checkpoint's, or the tensor is damaged.
  public init(
    _ tensor: CheckpointTensor, order: ModelOutline.Matrix.Order = .rows, pruned: PrunedMatrix?,
    keepsPages: Bool = false
  ) throws {
    let shape = order == .rows ? tensor.shape : tensor.shape.reversed()
    guard let weights = pruned?.weights else {
      try self.init(
        order == .rows ? tensor : .dense(tensor.transposed()), mask: pruned?.mask,
        keepsPages: keepsPages)
      return
    }
    guard weights.shape == shape, weights.dtype == tensor.dtype else {
      throw EspalierError.badInput(
        "the fitted weights are \(weights.dtype?.rawValue ?? "?") \(weights.shape), not \(tensor.dtype?.rawValue ?? "?") \(shape) as \(tensor.name).",
        subject: weights.file.path)
    }
    try self.init(weights, mask: pruned?.mask, keepsPages: keepsPages)
  }

  /// A tensor of a file as a weight; see ``init(_:mask:keepsPages:)-(CheckpointTensor,_,_)``.
  public init(_ tensor: StoredTensor, mask: Mask? = nil, keepsPages: Bool = false) throws {
    try self.init(.dense(tensor), mask: mask, keepsPages: keepsPages)
  }

  /// - Throws: bad input if the tensor is not a matrix of weights or damaged, or the mask has another shape.
  public init(_ tensor: CheckpointTensor, mask: Mask? = nil, keepsPages: Bool = false) throws {
    guard tensor.shape.count == 2, let dtype = tensor.dtype, dtype.isWeight else {
      throw EspalierError.badInput(
        "the tensor \(tensor.name) is not a matrix of F32, BF16 or F16.", subject: tensor.path)
    }
    if case .compact(let matrix) = tensor { try matrix.check() }
    rows = tensor.shape[0]
    columns = tensor.shape[1]
    guard mask == nil || (mask?.rows == rows && mask?.columns == columns) else {
      throw EspalierError.internalFault("the mask of \(tensor.name) has another shape than the weight.")
    }
    self.tensor = tensor
    self.mask = mask
    self.keepsPages = keepsPages
    self.dtype = dtype
  }

  private var rowBytes: Int { columns * dtype.byteCount }

  /// The bytes of rows in a dense tensor.
  private func bytes(_ rows: Range<Int>) -> Range<Int> {
    precondition(rows.lowerBound >= 0 && rows.upperBound <= self.rows)
    return rows.lowerBound * rowBytes..<rows.upperBound * rowBytes
  }

  /// Rows as f32: `range.count x columns`.
  func load(_ range: Range<Int>, into output: inout MutableSpan<Float>) {
    precondition(output.count >= range.count * columns)
    var scratch = WeightScratch()
    withRows(range, using: &scratch) { $0.load(into: &output) }
  }

  /// Rows as the file holds them, valid within `body`.
  ///
  /// - Parameter scratch: what they are read into if the file is not mapped.
  func withRows(_ range: Range<Int>, using scratch: inout WeightScratch, _ body: (StoredRows) -> Void) {
    switch tensor {
    case .dense(let tensor):
      tensor.withBytes(bytes(range), using: &scratch.dense) {
        guard let start = $0.baseAddress else { return }
        body(StoredRows(range: range, columns: columns, mask: mask, dtype: dtype, storage: .dense(start)))
      }
    case .compact(let matrix):
      matrix.withRows(range, using: &scratch.compact) {
        body(StoredRows(range: range, columns: columns, mask: mask, dtype: dtype, storage: .compact($0)))
      }
    }
  }

  var isBF16: Bool { dtype == .bf16 }

  /// Rows as the file holds them, for products with few tokens; valid within `body`.
  ///
  /// - Parameter scratch: what they are read into if the file is not mapped.
  func withPackedRows(_ range: Range<Int>, using scratch: inout WeightScratch, _ body: (PackedRows) -> Void) {
    precondition(mask == nil, "weights of a decoder have no mask")
    let type = Int32(dtype == .bf16 ? ESPALIER_BF16 : dtype == .f16 ? ESPALIER_F16 : ESPALIER_F32)
    withRows(range, using: &scratch) { rows in
      switch rows.storage {
      case .dense(let start):
        body(PackedRows(type: type, values: start, valueBytes: range.count * rowBytes, bits: nil))
      case .compact(let rows):
        guard let bits = rows.bitmask.baseAddress else { return }
        body(
          PackedRows(
            type: type, values: rows.values.baseAddress ?? bits, valueBytes: rows.values.count,
            bits: bits.assumingMemoryBound(to: UInt8.self)))
      }
    }
  }

  /// Rows whose dense form fills this many bytes, in whole blocks; at least one block.
  func rows(in bytes: Int) -> Int {
    max(1, bytes / max(1, rowBytes) / linearRowsAtATime) * linearRowsAtATime
  }

  /// Releases the pages of these rows.
  public func release(_ range: Range<Int>) {
    switch tensor {
    case .dense(let tensor): tensor.release(bytes(range))
    case .compact(let matrix): matrix.release(range)
    }
  }

  /// Rows in the type of the checkpoint, with what the mask prunes set to +0; the bytes to write.
  public func maskedBytes(_ range: Range<Int>) -> Buffer<UInt8> {
    var masked = Buffer<UInt8>(unfilled: range.count * rowBytes)
    var scratch = WeightScratch()
    masked.withUnsafeMutable { output in
      let output = UnsafeMutableRawBufferPointer(output)
      withRows(range, using: &scratch) { $0.copy(into: output) }
    }
    return masked
  }

  /// The rows as a matrix of f32; `range.count x columns`.
  public func matrix(_ range: Range<Int>) -> Matrix {
    var matrix = Matrix(unfilled: range.count, columns: columns)
    var rows = matrix.elements.mutableSpan
    load(range, into: &rows)
    return matrix
  }
}

/// Some rows of a weight as `espalier_few_product` reads them; valid only inside the closure they are passed to.
struct PackedRows {
  let type: Int32
  let values: UnsafeRawPointer
  let valueBytes: Int
  let bits: UnsafePointer<UInt8>?
}

/// What rows of a weight are read into if its file is not mapped.
struct WeightScratch: ~Copyable {
  fileprivate var dense = ReadScratch()
  fileprivate var compact = CompactScratch()
}

extension CheckpointTensor {
  /// The transpose of the matrix, as a dense copy in memory.
  fileprivate func transposed() throws -> StoredTensor {
    guard case .compact(let matrix) = self else { return try dense().transposed() }
    let weight = try LinearWeight(self)
    let copy = StoredTensor.transposed(rows: matrix.rows, columns: matrix.columns, matrix.dtype) {
      rows, body in
      let bytes = weight.maskedBytes(rows)
      weight.release(rows)
      bytes.withUnsafe { body(UnsafeRawBufferPointer($0)) }
    }
    try requireReadable()
    return try StoredTensor(copy, shape: [matrix.columns, matrix.rows], derivedFrom: matrix.values)
  }
}

/// Some rows of a weight as the file holds them, for the products; valid only inside the closure they are passed to.
struct StoredRows {
  let range: Range<Int>
  let columns: Int
  fileprivate let mask: Mask?
  fileprivate let dtype: DType
  fileprivate let storage: Storage

  enum Storage {
    /// All elements, row after row.
    case dense(UnsafeRawPointer)
    case compact(CompactMatrix.Rows)
  }

  /// The most columns that are expanded at a time.
  private static let columnsAtATime = 2 * runSteps

  /// For each row of a panel, the index among the rows' values of the one that comes next; for compact rows alone.
  typealias Cursors = InlineArray<16, Int>

  /// The beginnings of at most 16 rows.
  func cursors() -> Cursors {
    precondition(range.count <= panelWidth)
    var cursors = Cursors(repeating: 0)
    guard case .compact(let rows) = storage else { return cursors }
    var start = 0
    for row in range {
      cursors[row - range.lowerBound] = start
      start += countBits(bits(rows, row, 0..<columns))
    }
    return cursors
  }

  private func start(_ base: UnsafeRawPointer, _ row: Int, _ column: Int) -> UnsafeRawPointer {
    base + ((row - range.lowerBound) * columns + column) * dtype.byteCount
  }

  /// The mask of a part of a compact row.
  private func bits(_ rows: CompactMatrix.Rows, _ row: Int, _ part: Range<Int>) -> UnsafeRawBufferPointer {
    let first = (row - range.lowerBound) * Mask.rowBytes(columns)
    return UnsafeRawBufferPointer(
      rebasing: rows.bitmask[first + part.lowerBound / 8..<first + Mask.rowBytes(part.upperBound)])
  }

  /// Packs a part of the rows, at most 16 of them and at most `runSteps` steps, in the precision of a product.
  ///
  /// - Parameters:
  ///   - cursors: of the rows; parts are packed from left to right.
  ///   - lines: scratch of `panelWidth * runSteps` words.
  /// - Precondition: the part begins at a multiple of 8.
  func pack(
    _ part: Range<Int>, _ precision: Precision, _ cursors: inout Cursors, lines: inout Buffer<UInt32>,
    into panel: inout MutableSpan<UInt32>
  ) {
    precondition(part.lowerBound % 8 == 0 && part.lowerBound >= 0 && part.upperBound <= columns)
    precondition(range.count <= panelWidth && part.count <= runSteps * precision.valuesPerStep)
    let values = precision.valuesPerStep
    if case .dense(let base) = storage, mask == nil, dtype == (precision == .f32 ? .f32 : .bf16),
      columns % values == 0, part.upperBound % values == 0
    {
      // Nothing has to be converted or masked.
      return espalier_pack_rows(
        range.count, part.count / values, columns / values, start(base, range.lowerBound, part.lowerBound),
        &panel)
    }
    let count = precision.steps(part.count)
    lines.withUnsafeMutable { lines in
      for row in range {
        let first = (row - range.lowerBound) * runSteps
        lines[first + count - 1] = 0
        let line = UnsafeMutableRawBufferPointer(
          UnsafeMutableBufferPointer(rebasing: lines[first..<first + count]))
        if precision == .f32 {
          var line = line.bindMemory(to: Float.self).mutableSpan
          load(row, part, &cursors[row - range.lowerBound], into: &line)
        } else {
          var words = line.bindMemory(to: UInt16.self).mutableSpan
          var line = words.part(0..<part.count)
          load(row, part, &cursors[row - range.lowerBound], into: &line)
        }
      }
      if let lines = lines.baseAddress { espalier_pack_rows(range.count, count, runSteps, lines, &panel) }
    }
  }

  /// All rows, masked, as f32.
  fileprivate func load(into output: inout MutableSpan<Float>) {
    var cursor = 0
    let step = if case .dense = storage { columns } else { Self.columnsAtATime }
    for (index, row) in range.enumerated() {
      for first in stride(from: 0, to: columns, by: step) {
        let part = first..<min(first + step, columns)
        var line = output.part(index * columns + part.lowerBound..<index * columns + part.upperBound)
        load(row, part, &cursor, into: &line)
      }
    }
  }

  /// All rows, masked, in their own type.
  fileprivate func copy(into output: UnsafeMutableRawBufferPointer) {
    var cursor = 0
    let rowBytes = columns * dtype.byteCount
    for (index, row) in range.enumerated() {
      let line = UnsafeMutableRawBufferPointer(rebasing: output[index * rowBytes..<(index + 1) * rowBytes])
      copy(row, 0..<columns, &cursor, into: line)
      guard let mask else { continue }
      if dtype == .f32 {
        var values = line.bindMemory(to: Float.self).mutableSpan
        espalier_mask_f32(mask.row(row), &values)
      } else {
        var values = line.bindMemory(to: UInt16.self).mutableSpan
        espalier_mask_16(mask.row(row), &values)
      }
    }
  }

  /// A part of one row, masked, as f32.
  private func load(
    _ row: Int, _ part: Range<Int>, _ cursor: inout Int, into output: inout MutableSpan<Float>
  ) {
    withElements(row, part, &cursor) { load32($0, dtype, count: part.count, into: &output) }
    guard let mask else { return }
    espalier_mask_f32(mask.bits(row, part), &output)
  }

  /// A part of one row, masked, as bf16.
  private func load(
    _ row: Int, _ part: Range<Int>, _ cursor: inout Int, into output: inout MutableSpan<UInt16>
  ) {
    if dtype == .bf16 {
      output.withUnsafeMutableBytes { copy(row, part, &cursor, into: $0) }
    } else {
      withUnsafeTemporaryAllocation(of: Float.self, capacity: part.count) { values in
        var floats = values.mutableSpan
        withElements(row, part, &cursor) { load32($0, dtype, count: part.count, into: &floats) }
        output.withUnsafeMutableBufferPointer {
          if let output = $0.baseAddress, let values = values.baseAddress {
            espalier_f32_to_bf16(part.count, values, output)
          }
        }
      }
    }
    guard let mask else { return }
    espalier_mask_16(mask.bits(row, part), &output)
  }

  /// The elements of a part of one row, unmasked, valid within `body`.
  private func withElements(
    _ row: Int, _ part: Range<Int>, _ cursor: inout Int, _ body: (UnsafeRawPointer) -> Void
  ) {
    if case .dense(let base) = storage { return body(start(base, row, part.lowerBound)) }
    withUnsafeTemporaryAllocation(byteCount: part.count * dtype.byteCount, alignment: 64) { elements in
      copy(row, part, &cursor, into: elements)
      if let start = elements.baseAddress { body(UnsafeRawPointer(start)) }
    }
  }

  /// Copies or expands a part of one row, unmasked.
  private func copy(
    _ row: Int, _ part: Range<Int>, _ cursor: inout Int, into output: UnsafeMutableRawBufferPointer
  ) {
    switch storage {
    case .dense(let base):
      output.copyMemory(
        from: UnsafeRawBufferPointer(
          start: start(base, row, part.lowerBound), count: part.count * dtype.byteCount))
    case .compact(let rows):
      let bits = bits(rows, row, part)
      guard let mask = bits.baseAddress?.assumingMemoryBound(to: UInt8.self) else { return }
      let place = min(cursor, rows.values.count / dtype.byteCount)
      let left = rows.values.count / dtype.byteCount - place
      // The values may be none, and then have no address.
      let values = rows.values.baseAddress.map { $0 + place * dtype.byteCount } ?? UnsafeRawPointer(mask)
      guard let target = output.baseAddress else { return }
      let taken =
        dtype == .f32
        ? espalier_expand_32(
          part.count, bits.count, mask, left, values, target.assumingMemoryBound(to: UInt32.self))
        : espalier_expand_16(
          part.count, bits.count, mask, left, values, target.assumingMemoryBound(to: UInt16.self))
      cursor = place + taken
    }
  }
}

private func countBits(_ bits: UnsafeRawBufferPointer) -> Int {
  bits.baseAddress.map { espalier_count_bits(bits.count, $0.assumingMemoryBound(to: UInt8.self)) } ?? 0
}

extension Mask {
  /// The bytes that hold a part of a row, which begins at a multiple of 8.
  @_lifetime(borrow self)
  fileprivate func bits(_ row: Int, _ part: Range<Int>) -> Span<UInt8> {
    self.row(row).extracting(part.lowerBound / 8..<(part.upperBound + 7) / 8)
  }
}

/// Elements of a weight type as f32.
func load32(
  _ source: UnsafeRawPointer, _ dtype: DType, count: Int, into output: inout MutableSpan<Float>
) {
  precondition(count <= output.count)
  output.withUnsafeMutableBufferPointer {
    guard let output = $0.baseAddress else { return }
    switch dtype {
    case .bf16: espalier_bf16_to_f32(count, source, output)
    case .f16: espalier_f16_to_f32(count, source, output)
    default: UnsafeMutableRawPointer(output).copyMemory(from: source, byteCount: count * 4)
    }
  }
}

extension StoredTensor {
  /// All elements as f32, for vectors (norms, biases); in one row.
  ///
  /// - Throws: bad input for another type; an I/O error if they cannot be read.
  public func floats() throws -> Matrix {
    guard let dtype, dtype.isWeight, let count = elementCount(of: shape) else {
      throw EspalierError.badInput("the tensor \(name) is not F32, BF16 or F16.", subject: file.path)
    }
    var row = Matrix(unfilled: 1, columns: count)
    withBytes { bytes in
      var values = row.elements.mutableSpan
      if let start = bytes.baseAddress { load32(start, dtype, count: count, into: &values) }
    }
    try file.requireReadable()
    return row
  }
}
