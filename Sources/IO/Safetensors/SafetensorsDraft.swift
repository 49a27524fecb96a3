import EspalierCore

/// A new safetensors file that has its full size from the start: its tensors are written in any order, or worked on in place; the
/// header comes last, so that an unfinished file is none.
public struct SafetensorsDraft: ~Copyable, Sendable {
  private let file: File
  private let layout: SafetensorsLayout

  /// Tensors start at a page: a page is touched for few of their rows.
  private static let headerBytes = 4096

  /// Creates the file and takes its room on the disk.
  ///
  /// - Throws: an I/O error, also where the disk is too full.
  public init(path: String, tensors: [(name: String, dtype: DType, shape: [Int])]) throws {
    let layout = try SafetensorsLayout(tensors)
    let file = try File(writing: path, truncate: true)
    try file.reserve(Self.headerBytes + layout.byteCount)
    self.layout = layout
    self.file = file
  }

  /// The bytes of a tensor as memory.
  public func map(_ name: String) throws -> MappedBuffer { try file.mapForWriting(range(name)) }

  /// Writes all elements of a tensor.
  public func write<Element: BitwiseCopyable>(_ elements: borrowing Buffer<Element>, to name: String) throws {
    try elements.withUnsafe { try write(UnsafeRawBufferPointer($0), to: name) }
  }

  /// Writes all elements of a tensor.
  public func write<Element: BitwiseCopyable>(_ elements: [Element], to name: String) throws {
    try elements.withUnsafeBytes { try write($0, to: name) }
  }

  /// For IO and Kernels only: writes all bytes of a tensor.
  public func write(_ bytes: UnsafeRawBufferPointer, to name: String) throws {
    let range = try range(name)
    guard bytes.count == range.count else {
      throw EspalierError.internalFault(
        "\(bytes.count) bytes are written to \(name), which has \(range.count).", subject: file.path)
    }
    try file.write(bytes, at: range.lowerBound)
  }

  /// Writes the header; returns when the whole file is on the disk.
  public consuming func finish(metadata: [(String, String)] = []) throws {
    let header = layout.header(metadata: metadata, unit: Self.headerBytes)
    guard header.count == Self.headerBytes else {
      throw EspalierError.internalFault("the header is too long.", subject: file.path)
    }
    try file.write(header, at: 0)
    try file.sync()
  }

  private func range(_ name: String) throws -> Range<Int> {
    guard let range = layout.tensors.first(where: { $0.name == name })?.range else {
      throw EspalierError.internalFault("there is no tensor \(name).", subject: file.path)
    }
    return Self.headerBytes + range.lowerBound..<Self.headerBytes + range.upperBound
  }
}
