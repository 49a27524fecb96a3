import EspalierCore

extension StoredTensor {
  /// A tensor whose bytes are in memory.
  ///
  /// - Parameter origin: the tensor they were derived from, which gives name, type and the file for errors.
  public init(_ bytes: consuming Buffer<UInt8>, shape: [Int], derivedFrom origin: StoredTensor) throws {
    let file = FileBytes(bytes, of: origin.file.path)
    try self.init(
      entry: TensorEntry(name: origin.name, type: origin.entry.type, shape: shape, range: 0..<file.count),
      file: file)
  }

  /// The same bytes as a matrix: leading axes of size 1 are dropped, and all axes after the first are joined.
  public func flattened() throws -> StoredTensor {
    guard shape.count != 2 else { return self }
    var axes = shape[...]
    while axes.count > 2, axes.first == 1 { axes.removeFirst() }
    return try StoredTensor(
      entry: TensorEntry(
        name: name, type: entry.type, shape: [axes.first ?? 1, axes.dropFirst().reduce(1, *)],
        range: entry.range),
      file: file)
  }

  /// A copy of all bytes.
  public func bytes() -> Buffer<UInt8> {
    var copy = Buffer<UInt8>(unfilled: entry.range.count)
    copy.withUnsafeMutable { target in
      withBytes { UnsafeMutableRawBufferPointer(target).copyMemory(from: $0) }
    }
    return copy
  }

  /// One of the matrices that a 3-D tensor stacks along its first axis.
  ///
  /// - Throws: bad input if the tensor has no such part.
  public func part(_ index: Int) throws -> StoredTensor {
    guard shape.count > 1, index >= 0, index < shape[0], let dtype else {
      throw EspalierError.badInput("the tensor \(name) has no part \(index).", subject: file.path)
    }
    let rest = Array(shape.dropFirst())
    let size = rest.reduce(1, *) * dtype.byteCount
    let start = entry.range.lowerBound + index * size
    return try StoredTensor(
      entry: TensorEntry(name: name, type: entry.type, shape: rest, range: start..<start + size), file: file)
  }

  /// The transpose of the matrix, as a copy in memory.
  ///
  /// - Throws: bad input if it is not a matrix of F32, BF16 or F16; an I/O error if it cannot be read.
  public func transposed() throws -> StoredTensor {
    guard shape.count == 2, let dtype, dtype.isWeight else {
      throw EspalierError.badInput(
        "the tensor \(name) is not a matrix of F32, BF16 or F16.", subject: file.path)
    }
    let rowBytes = shape[1] * dtype.byteCount
    var scratch = ReadScratch()
    let copy = Self.transposed(rows: shape[0], columns: shape[1], dtype) { band, body in
      let bytes = band.lowerBound * rowBytes..<band.upperBound * rowBytes
      withBytes(bytes, using: &scratch, body)
      release(bytes)
    }
    try file.requireReadable()
    return try StoredTensor(copy, shape: [shape[1], shape[0]], derivedFrom: self)
  }

  /// For IO and Kernels only: the elements of a matrix, column after column.
  ///
  /// - Parameter read: called with some of the rows, of which it gives the bytes to its second argument.
  public static func transposed(
    rows: Int, columns: Int, _ dtype: DType,
    read: (Range<Int>, (UnsafeRawBufferPointer) -> Void) throws -> Void
  ) rethrows -> Buffer<UInt8> {
    let size = dtype.byteCount
    var copy = Buffer<UInt8>(unfilled: rows * columns * size)
    // A few rows at a time, which stay in the cache while they are scattered over the columns.
    for band in parts(of: rows, size: 32) {
      try read(band) { source in
        copy.withUnsafeMutable { target in
          let target = UnsafeMutableRawPointer(target.baseAddress!) + band.lowerBound * size
          let source = source.baseAddress!
          if size == 4 {
            transpose(UInt32.self, source, band.count, columns, into: target, stride: rows)
          } else {
            transpose(UInt16.self, source, band.count, columns, into: target, stride: rows)
          }
        }
      }
    }
    return copy
  }
}

/// `target[column * stride + row] = source[row * columns + column]`; the source may be unaligned.
private func transpose<Element: BitwiseCopyable>(
  _: Element.Type, _ source: UnsafeRawPointer, _ rows: Int, _ columns: Int,
  into target: UnsafeMutableRawPointer,
  stride: Int
) {
  let size = MemoryLayout<Element>.size
  for column in 0..<columns {
    let line = target + column * stride * size
    for row in 0..<rows {
      (line + row * size).storeBytes(
        of: source.loadUnaligned(fromByteOffset: (row * columns + column) * size, as: Element.self),
        as: Element.self)
    }
  }
}
