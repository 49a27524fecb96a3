import CKernels
import EspalierCore
import EspalierIO

/// The weight of a linear layer (`rows x columns`, d_out x d_in) as it stands in the checkpoint, with an optional mask.
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

  /// - Throws: bad input where the tensor is no matrix of weights, or the mask has another shape.
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

  /// Where rows lie in the tensor.
  private func bytes(_ rows: Range<Int>) -> Range<Int> {
    precondition(rows.lowerBound >= 0 && rows.upperBound <= self.rows)
    return rows.lowerBound * rowBytes..<rows.upperBound * rowBytes
  }

  /// Rows as f32: `range.count x columns` from `output` on.
  func load(_ range: Range<Int>, into output: UnsafeMutablePointer<Float>) {
    tensor.withBytes(bytes(range)) {
      load32($0.baseAddress!, dtype, count: range.count * columns, into: output)
    }
    guard let mask else { return }
    mask.bits.withUnsafeBufferPointer { bits in
      for (index, row) in range.enumerated() {
        espalier_mask_f32(columns, bits.baseAddress! + row * mask.rowBytes, output + index * columns)
      }
    }
  }

  /// Rows as they stand in the file, valid within `body`.
  ///
  /// - Parameter room: what they are read into where the file is not mapped.
  func withRows(_ range: Range<Int>, using room: inout ReadScratch, _ body: (StoredRows) -> Void) {
    tensor.withBytes(bytes(range), using: &room) {
      body(StoredRows(range: range, columns: columns, mask: mask, dtype: dtype, base: $0.baseAddress!))
    }
  }

  /// Whole blocks of rows that so many bytes hold, one at least.
  func rows(in bytes: Int) -> Int {
    max(1, bytes / max(1, rowBytes) / linearRowsAtATime) * linearRowsAtATime
  }

  /// Gives the pages of these rows back to the system.
  func release(_ range: Range<Int>) { tensor.release(bytes(range)) }

  /// Rows in the type of the checkpoint, with what the mask prunes set to +0; the bytes to write.
  public func maskedBytes(_ range: Range<Int>) -> Buffer<UInt8> {
    var masked = Buffer<UInt8>(unfilled: range.count * rowBytes)
    masked.withUnsafeMutable { output in
      let output = UnsafeMutableRawBufferPointer(output)
      tensor.withBytes(bytes(range)) { output.copyMemory(from: $0) }
      mask?.bits.withUnsafeBufferPointer { bits in
        for (index, row) in range.enumerated() {
          let kept = bits.baseAddress! + row * Mask.rowBytes(columns)
          let start = output.baseAddress! + index * rowBytes
          if dtype == .f32 {
            espalier_mask_f32(columns, kept, start.assumingMemoryBound(to: Float.self))
          } else {
            espalier_mask_16(columns, kept, start.assumingMemoryBound(to: UInt16.self))
          }
        }
      }
    }
    return masked
  }

  /// The rows as a matrix of f32; `range.count x columns`.
  public func matrix(_ range: Range<Int>) -> Matrix {
    var matrix = Matrix(rows: range.count, columns: columns)
    matrix.elements.withUnsafeMutable { load(range, into: $0.baseAddress!) }
    return matrix
  }
}

/// Some rows of a weight as they stand in the file, for the products; valid where they were handed out.
struct StoredRows {
  let range: Range<Int>
  let columns: Int
  fileprivate let mask: Mask?
  fileprivate let dtype: DType
  fileprivate let base: UnsafeRawPointer

  private func start(_ row: Int, _ column: Int) -> UnsafeRawPointer {
    base + ((row - range.lowerBound) * columns + column) * dtype.byteCount
  }

  /// A part of one row, masked, in the precision of a product, as `output` packs it; at most `runSteps` steps.
  ///
  /// - Precondition: the part begins at a multiple of 8.
  func load(
    _ row: Int, _ part: Range<Int>, _ precision: Precision, into output: UnsafeMutablePointer<UInt32>
  ) {
    precondition(range.contains(row) && part.lowerBound >= 0 && part.upperBound <= columns)
    precondition(part.lowerBound % 8 == 0 && part.count <= runSteps * precision.valuesPerStep)
    let count = part.count
    let source = start(row, part.lowerBound)
    let raw = UnsafeMutableRawPointer(output)
    if precision == .f32 {
      load32(source, dtype, count: count, into: raw.assumingMemoryBound(to: Float.self))
    } else if dtype == .bf16 {
      raw.copyMemory(from: source, byteCount: count * 2)
    } else {
      withUnsafeTemporaryAllocation(of: Float.self, capacity: count) { values in
        load32(source, dtype, count: count, into: values.baseAddress!)
        espalier_f32_to_bf16(count, values.baseAddress!, raw.assumingMemoryBound(to: UInt16.self))
      }
    }
    guard let mask else { return }
    mask.bits.withUnsafeBufferPointer { bits in
      let kept = bits.baseAddress! + row * mask.rowBytes + part.lowerBound / 8
      switch precision {
      case .f32: espalier_mask_f32(count, kept, raw.assumingMemoryBound(to: Float.self))
      case .bf16: espalier_mask_16(count, kept, raw.assumingMemoryBound(to: UInt16.self))
      }
    }
  }

  /// Packs a part of the rows, at most 16, as it stands, where nothing has to be converted or masked; false where it has.
  func pack(_ part: Range<Int>, _ precision: Precision, into panel: UnsafeMutablePointer<UInt32>) -> Bool {
    let values = precision.valuesPerStep
    guard mask == nil, dtype == (precision == .f32 ? .f32 : .bf16), columns % values == 0,
      part.upperBound % values == 0
    else { return false }
    precondition(range.count <= panelWidth && part.lowerBound >= 0 && part.upperBound <= columns)
    espalier_pack_rows(
      range.count, part.count / values, columns / values,
      start(range.lowerBound, part.lowerBound), panel)
    return true
  }
}

/// Elements of a weight type as f32.
func load32(_ source: UnsafeRawPointer, _ dtype: DType, count: Int, into output: UnsafeMutablePointer<Float>)
{
  switch dtype {
  case .bf16: espalier_bf16_to_f32(count, source, output)
  case .f16: espalier_f16_to_f32(count, source, output)
  default: UnsafeMutableRawPointer(output).copyMemory(from: source, byteCount: count * 4)
  }
}

extension StoredTensor {
  /// All elements as f32, for vectors (norms, biases); in one row.
  ///
  /// - Throws: bad input for another type; an I/O error where they cannot be read.
  public func floats() throws -> Matrix {
    guard let dtype, dtype.isWeight, let count = elementCount(of: shape) else {
      throw EspalierError.badInput("the tensor \(name) is not F32, BF16 or F16.", subject: file.path)
    }
    var row = Matrix(rows: 1, columns: count)
    withBytes { bytes in
      row.elements.withUnsafeMutable { output in
        if count > 0 { load32(bytes.baseAddress!, dtype, count: count, into: output.baseAddress!) }
      }
    }
    try file.requireReadable()
    return row
  }
}
