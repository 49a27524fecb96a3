import CKernels
import EspalierCore
import EspalierIO
import Synchronization

/// The weight of a linear layer (`rows x columns`, d_out x d_in) as it stands in the checkpoint, with an optional mask.
///
/// It owns no memory: rows are converted to f32, and masked, as they are needed.
public struct LinearWeight: Sendable {
  public let tensor: MappedTensor
  public let rows: Int
  public let columns: Int
  public let mask: Mask?
  /// Whether its pages stay in memory after a product; otherwise they are given back at once.
  public let keepsPages: Bool
  private let dtype: DType

  /// The weight as the pipeline left it; dense where `pruned` is nil.
  ///
  /// - Throws: bad input where the new weights have another shape or type than the checkpoint's.
  public init(_ tensor: MappedTensor, pruned: PrunedMatrix?, keepsPages: Bool = false) throws {
    if let weights = pruned?.weights, weights.shape != tensor.shape || weights.dtype != tensor.dtype {
      throw EspalierError.badInput(
        "the fitted weights are \(weights.dtype?.rawValue ?? "?") \(weights.shape), not \(tensor.dtype?.rawValue ?? "?") \(tensor.shape) as \(tensor.name).",
        subject: weights.file.path)
    }
    try self.init(pruned?.weights ?? tensor, mask: pruned?.mask, keepsPages: keepsPages)
  }

  /// - Throws: bad input where the tensor is no matrix of weights, or the mask has another shape.
  public init(_ tensor: MappedTensor, mask: Mask? = nil, keepsPages: Bool = false) throws {
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

  /// Rows as f32: `range.count x columns` from `output` on.
  func load(_ range: Range<Int>, into output: UnsafeMutablePointer<Float>) {
    precondition(range.lowerBound >= 0 && range.upperBound <= rows)
    tensor.withBytes { bytes in
      let start = bytes.baseAddress! + range.lowerBound * columns * dtype.byteCount
      load32(start, dtype, count: range.count * columns, into: output)
    }
    guard let mask else { return }
    mask.bits.withUnsafeBufferPointer { bits in
      for (index, row) in range.enumerated() {
        espalier_mask_f32(columns, bits.baseAddress! + row * mask.rowBytes, output + index * columns)
      }
    }
  }

  /// A part of one row, masked, in the precision of a product, as `output` packs it; at most `runSteps` steps.
  ///
  /// - Precondition: the part begins at a multiple of 8.
  func load(
    _ row: Int, _ part: Range<Int>, _ precision: Precision, into output: UnsafeMutablePointer<UInt32>
  ) {
    precondition(row >= 0 && row < rows && part.lowerBound >= 0 && part.upperBound <= columns)
    precondition(part.lowerBound % 8 == 0 && part.count <= runSteps * precision.valuesPerStep)
    let count = part.count
    tensor.withBytes { bytes in
      let source = bytes.baseAddress! + (row * columns + part.lowerBound) * dtype.byteCount
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
    }
    guard let mask else { return }
    mask.bits.withUnsafeBufferPointer { bits in
      let kept = bits.baseAddress! + row * mask.rowBytes + part.lowerBound / 8
      let raw = UnsafeMutableRawPointer(output)
      switch precision {
      case .f32: espalier_mask_f32(count, kept, raw.assumingMemoryBound(to: Float.self))
      case .bf16: espalier_mask_16(count, kept, raw.assumingMemoryBound(to: UInt16.self))
      }
    }
  }

  /// Packs a part of at most 16 rows straight from the file, where nothing has to be converted or masked; false where it has.
  func pack(
    _ range: Range<Int>, _ part: Range<Int>, _ precision: Precision, into panel: UnsafeMutablePointer<UInt32>
  ) -> Bool {
    let values = precision.valuesPerStep
    guard mask == nil, dtype == (precision == .f32 ? .f32 : .bf16), columns % values == 0,
      part.upperBound % values == 0
    else { return false }
    precondition(range.lowerBound >= 0 && range.upperBound <= rows && part.upperBound <= columns)
    tensor.withBytes {
      let source = $0.baseAddress! + (range.lowerBound * columns + part.lowerBound) * dtype.byteCount
      espalier_pack_rows(
        range.count, part.count / values, columns / values, source.assumingMemoryBound(to: UInt32.self), panel
      )
    }
    return true
  }

  /// Whole blocks of rows that so many bytes hold, one at least.
  func rows(in bytes: Int) -> Int {
    max(1, bytes / max(1, columns * dtype.byteCount) / linearRowsAtATime) * linearRowsAtATime
  }

  /// Gives the pages of these rows back to the system.
  func release(_ range: Range<Int>) {
    let rowBytes = columns * dtype.byteCount
    tensor.release(range.lowerBound * rowBytes..<range.upperBound * rowBytes)
  }

  /// Rows in the type of the checkpoint, with what the mask prunes set to +0; the bytes to write.
  public func maskedBytes(_ range: Range<Int>) -> Buffer<UInt8> {
    precondition(range.lowerBound >= 0 && range.upperBound <= rows)
    let rowBytes = columns * dtype.byteCount
    var bytes = Buffer<UInt8>(count: range.count * rowBytes)
    bytes.withUnsafeMutable { output in
      let output = UnsafeMutableRawBufferPointer(output)
      tensor.withBytes {
        output.copyMemory(
          from: UnsafeRawBufferPointer(
            rebasing: $0[range.lowerBound * rowBytes..<range.upperBound * rowBytes]))
      }
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
    return bytes
  }

  /// The rows as a matrix of f32; `range.count x columns`.
  public func matrix(_ range: Range<Int>) -> Matrix {
    var matrix = Matrix(rows: range.count, columns: columns)
    matrix.elements.withUnsafeMutable { load(range, into: $0.baseAddress!) }
    return matrix
  }
}

/// Elements of a weight type as f32.
func load32(_ source: UnsafeRawPointer, _ dtype: DType, count: Int, into output: UnsafeMutablePointer<Float>)
{
  switch dtype {
  case .bf16: espalier_bf16_to_f32(count, source.assumingMemoryBound(to: UInt16.self), output)
  case .f16: espalier_f16_to_f32(count, source.assumingMemoryBound(to: UInt16.self), output)
  default: UnsafeMutableRawPointer(output).copyMemory(from: source, byteCount: count * 4)
  }
}

extension MappedTensor {
  /// All elements as f32, for vectors (norms, biases); in one row.
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
    return row
  }

  /// Throws where an element is infinite or not a number, naming its place; reads the tensor once and gives its pages back.
  public func requireFinite() throws {
    guard let dtype, dtype.isWeight, let count = elementCount(of: shape), count > 0 else { return }
    let pieces = parts(of: count, size: 1 << 20)
    let first = Atomic<Int>(count)
    Threads.forEach(pieces.count) { index in
      let piece = pieces[index]
      let found = withBytes { firstNotFinite($0.baseAddress!, dtype, in: piece) }
      release(piece.lowerBound * dtype.byteCount..<piece.upperBound * dtype.byteCount)
      if let found { first.min(found, ordering: .relaxed) }
    }
    let index = first.load(ordering: .relaxed)
    guard index < count else { return }
    let width = max(1, shape.last ?? 1)
    throw EspalierError.badInput(
      "the tensor \(name) holds a value that is not finite at row \(index / width), column \(index % width). Repair or replace the checkpoint; such a model cannot be pruned.",
      subject: file.path)
  }
}

/// The first element of a range that is infinite or not a number.
private func firstNotFinite(_ base: UnsafeRawPointer, _ dtype: DType, in range: Range<Int>) -> Int? {
  let start = base + range.lowerBound * dtype.byteCount
  let found =
    switch dtype {
    case .f32: espalier_first_not_finite_f32(range.count, start.assumingMemoryBound(to: Float.self))
    case .bf16: espalier_first_not_finite_16(range.count, 0x7F80, start.assumingMemoryBound(to: UInt16.self))
    default: espalier_first_not_finite_16(range.count, 0x7C00, start.assumingMemoryBound(to: UInt16.self))
    }
  return found < range.count ? range.lowerBound + found : nil
}
