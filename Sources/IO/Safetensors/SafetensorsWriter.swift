import EspalierCore

/// Writes a safetensors file from front to back: first the header, then each tensor's bytes in the order declared.
public struct SafetensorsWriter: ~Copyable {
  private let file: File
  private var position: Int
  private let end: Int

  /// Creates the file and writes its header.
  public init(
    path: String, tensors: [(name: String, dtype: DType, shape: [Int])], metadata: [(String, String)] = []
  ) throws {
    let layout = try SafetensorsLayout(tensors)
    let header = layout.header(metadata: metadata)
    let file = try File(writing: path, truncate: true)
    try file.write(header, at: 0)
    self.file = file
    position = header.count
    end = position + layout.byteCount
  }

  /// Writes the next bytes.
  public mutating func append(_ bytes: UnsafeRawBufferPointer) throws { position += try write(bytes) }

  /// Writes the next elements.
  public mutating func append<Element: BitwiseCopyable>(_ elements: borrowing Buffer<Element>) throws {
    position += try elements.withUnsafe { try write(UnsafeRawBufferPointer($0)) }
  }

  /// Writes the next elements.
  public mutating func append<Element: BitwiseCopyable>(_ elements: [Element]) throws {
    position += try elements.withUnsafeBytes { try write($0) }
  }

  private func write(_ bytes: UnsafeRawBufferPointer) throws -> Int {
    guard position + bytes.count <= end else {
      throw EspalierError.internalFault("more bytes than declared were written to \(file.path).")
    }
    try file.write(bytes, at: position)
    return bytes.count
  }

  /// Returns when the whole file is on the disk.
  public consuming func finish() throws {
    guard position == end else {
      throw EspalierError.internalFault("\(end - position) bytes of \(file.path) were never written.")
    }
    try file.sync()
  }
}
