import CKernels
import EspalierCore
import EspalierIO

/// The weight of a linear layer (`rows x columns`, d_out x d_in) as the checkpoint stores it, with an optional mask.
///
/// It owns no memory: rows are converted to f32, and masked, as they are needed.
public struct LinearWeight: Sendable {
  public let tensor: StoredTensor
  public let rows: Int
  public let columns: Int
  public let mask: Mask?
  /// Whether its pages stay in memory after a product; otherwise they are given back at once.
  public let keepsPages: Bool
  private let dtype: DType

  /// The weight as the pipeline left it; dense if `pruned` is nil.
  ///
  /// - Parameter order: how the tensor is stored. One stored by columns is held in memory as a copy by rows.
  /// - Throws: bad input if the new weights have another shape or type than the checkpoint's.
  public init(
    _ tensor: StoredTensor, order: ModelOutline.Matrix.Order = .rows, pruned: PrunedMatrix?,
    keepsPages: Bool = false
  ) throws {
    let shape = order == .rows ? tensor.shape : tensor.shape.reversed()
    guard let weights = pruned?.weights else {
      try self.init(
        order == .rows ? tensor : tensor.transposed(), mask: pruned?.mask, keepsPages: keepsPages)
      return
    }
    guard weights.shape == shape, weights.dtype == tensor.dtype else {
      throw EspalierError.badInput(
        "the fitted weights are \(weights.dtype?.rawValue ?? "?") \(weights.shape), not \(tensor.dtype?.rawValue ?? "?") \(shape) as \(tensor.name).",
        subject: weights.file.path)
    }
    try self.init(weights, mask: pruned?.mask, keepsPages: keepsPages)
  }

  /// - Throws: bad input if the tensor is not a matrix of weights, or the mask has another shape.
  public init(_ tensor: StoredTensor, mask: Mask? = nil, keepsPages: Bool = false) throws {
    guard tensor.shape.count == 2, let dtype = tensor.dtype, dtype.isWeight else {
      throw EspalierError.badInput(
        "the tensor \(tensor.name) is not a matrix of F32, BF16 or F16.", subject: tensor.file.path)
    }
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

  /// The bytes of rows in the tensor.
  private func bytes(_ rows: Range<Int>) -> Range<Int> {
    precondition(rows.lowerBound >= 0 && rows.upperBound <= self.rows)
    return rows.lowerBound * rowBytes..<rows.upperBound * rowBytes
  }

  /// Rows as f32: `range.count x columns`.
  func load(_ range: Range<Int>, into output: inout MutableSpan<Float>) {
    precondition(output.count >= range.count * columns)
    tensor.withBytes(bytes(range)) {
      if let start = $0.baseAddress { load32(start, dtype, count: range.count * columns, into: &output) }
    }
    guard let mask else { return }
    for (index, row) in range.enumerated() {
      var line = output.part(index * columns..<(index + 1) * columns)
      espalier_mask_f32(mask.row(row), &line)
    }
  }

  /// Rows as the file holds them, valid within `body`.
  ///
  /// - Parameter scratch: what they are read into if the file is not mapped.
  func withRows(_ range: Range<Int>, using scratch: inout ReadScratch, _ body: (StoredRows) -> Void) {
    tensor.withBytes(bytes(range), using: &scratch) {
      guard let start = $0.baseAddress else { return }
      body(StoredRows(range: range, columns: columns, mask: mask, dtype: dtype, base: start))
    }
  }

  var isBF16: Bool { dtype == .bf16 }

  /// Rows as the file holds them, for products with few tokens; valid within `body`.
  ///
  /// - Parameter scratch: what they are read into if the file is not mapped.
  func withPackedRows(_ range: Range<Int>, using scratch: inout ReadScratch, _ body: (PackedRows) -> Void) {
    precondition(mask == nil, "weights of a decoder have no mask")
    let type = dtype == .bf16 ? ESPALIER_BF16 : dtype == .f16 ? ESPALIER_F16 : ESPALIER_F32
    tensor.withBytes(bytes(range), using: &scratch) {
      guard let start = $0.baseAddress else { return }
      body(PackedRows(type: Int32(type), values: start, valueBytes: $0.count, bits: nil))
    }
  }

  /// Rows that this many bytes hold, in whole blocks; at least one block.
  func rows(in bytes: Int) -> Int {
    max(1, bytes / max(1, rowBytes) / linearRowsAtATime) * linearRowsAtATime
  }

  /// Releases the pages of these rows.
  func release(_ range: Range<Int>) { tensor.release(bytes(range)) }

  /// Rows in the type of the checkpoint, with what the mask prunes set to +0; the bytes to write.
  public func maskedBytes(_ range: Range<Int>) -> Buffer<UInt8> {
    var masked = Buffer<UInt8>(unfilled: range.count * rowBytes)
    masked.withUnsafeMutable { output in
      let output = UnsafeMutableRawBufferPointer(output)
      tensor.withBytes(bytes(range)) { output.copyMemory(from: $0) }
      guard let mask else { return }
      for (index, row) in range.enumerated() {
        let line = UnsafeMutableRawBufferPointer(rebasing: output[index * rowBytes..<(index + 1) * rowBytes])
        if dtype == .f32 {
          var values = line.bindMemory(to: Float.self).mutableSpan
          espalier_mask_f32(mask.row(row), &values)
        } else {
          var values = line.bindMemory(to: UInt16.self).mutableSpan
          espalier_mask_16(mask.row(row), &values)
        }
      }
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

/// Some rows of a weight as the file holds them, for the products; valid only inside the closure they are passed to.
struct StoredRows {
  let range: Range<Int>
  let columns: Int
  fileprivate let mask: Mask?
  fileprivate let dtype: DType
  fileprivate let base: UnsafeRawPointer

  private func start(_ row: Int, _ column: Int) -> UnsafeRawPointer {
    base + ((row - range.lowerBound) * columns + column) * dtype.byteCount
  }

  /// Packs a part of the rows, at most 16 of them and at most `runSteps` steps, in the precision of a product.
  ///
  /// - Parameter lines: scratch of `panelWidth * runSteps` words.
  /// - Precondition: the part begins at a multiple of 8.
  func pack(
    _ part: Range<Int>, _ precision: Precision, lines: inout Buffer<UInt32>,
    into panel: inout MutableSpan<UInt32>
  ) {
    precondition(part.lowerBound % 8 == 0 && part.lowerBound >= 0 && part.upperBound <= columns)
    precondition(range.count <= panelWidth && part.count <= runSteps * precision.valuesPerStep)
    let values = precision.valuesPerStep
    if mask == nil, dtype == (precision == .f32 ? .f32 : .bf16), columns % values == 0,
      part.upperBound % values == 0
    {
      // Nothing has to be converted or masked.
      return espalier_pack_rows(
        range.count, part.count / values, columns / values, start(range.lowerBound, part.lowerBound), &panel)
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
          load(row, part, into: &line)
        } else {
          var words = line.bindMemory(to: UInt16.self).mutableSpan
          var line = words.part(0..<part.count)
          load(row, part, into: &line)
        }
      }
      if let lines = lines.baseAddress { espalier_pack_rows(range.count, count, runSteps, lines, &panel) }
    }
  }

  /// A part of one row, masked, as f32.
  private func load(_ row: Int, _ part: Range<Int>, into output: inout MutableSpan<Float>) {
    load32(start(row, part.lowerBound), dtype, count: part.count, into: &output)
    guard let mask else { return }
    espalier_mask_f32(mask.bits(row, part), &output)
  }

  /// A part of one row, masked, as bf16.
  private func load(_ row: Int, _ part: Range<Int>, into output: inout MutableSpan<UInt16>) {
    let source = start(row, part.lowerBound)
    if dtype == .bf16 {
      output.withUnsafeMutableBytes {
        $0.copyMemory(from: UnsafeRawBufferPointer(start: source, count: part.count * 2))
      }
    } else {
      withUnsafeTemporaryAllocation(of: Float.self, capacity: part.count) { values in
        var floats = values.mutableSpan
        load32(source, dtype, count: part.count, into: &floats)
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
