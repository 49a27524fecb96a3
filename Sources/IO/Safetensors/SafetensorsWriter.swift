import EspalierCore

/// Writes a safetensors file from front to back: the header, then each tensor's bytes in the declared order.
public struct SafetensorsWriter: ~Copyable {
  private let file: File
  private var position: Int
  private let end: Int

  /// Creates the file and writes its header.
  public init(
    path: String, tensors: [(name: String, dtype: DType, shape: [Int])],
    metadata: [(key: String, value: String)] = []
  ) throws {
    let layout = try SafetensorsLayout(tensors)
    let header = layout.header(metadata: [SafetensorsLayout.torchFormat] + metadata)
    let file = try File(writing: path, truncate: true)
    try file.write(header, at: 0)
    self.file = file
    position = header.count
    end = position + layout.byteCount
  }

  /// Writes the next bytes.
  ///
  /// - Throws: an I/O error; an internal fault if there are more bytes than declared.
  public mutating func append(_ bytes: RawSpan) throws {
    guard position + bytes.byteCount <= end else {
      throw EspalierError.internalFault("more bytes than declared were written to \(file.path).")
    }
    try file.write(bytes, at: position)
    position += bytes.byteCount
  }

  /// Writes the next elements.
  public mutating func append<Element: BitwiseCopyable>(_ elements: [Element]) throws {
    try append(elements.span.bytes)
  }

  /// Writes the next elements.
  public mutating func append<Element: BitwiseCopyable>(_ elements: borrowing Buffer<Element>) throws {
    try append(elements.span.bytes)
  }

  /// Returns once the whole file is on the disk.
  ///
  /// - Parameter syncing: false for a file that is only read by processes that run now.
  /// - Throws: an I/O error; an internal fault if bytes are missing.
  public consuming func finish(syncing: Bool = true) throws {
    guard position == end else {
      throw EspalierError.internalFault("\(end - position) bytes of \(file.path) were never written.")
    }
    if syncing { try file.sync() }
  }
}
