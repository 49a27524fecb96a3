import EspalierCore

/// A new safetensors file that has its full size from the start, so that its tensors can be written in any order or edited in place.
///
/// The header is written last, so an unfinished file is not a valid one.
public struct SafetensorsDraft: ~Copyable, Sendable {
  private let file: File
  private let layout: SafetensorsLayout

  /// One page: tensors start at a page boundary, so that few of their rows share a page with something else.
  private static let headerBytes = 4096

  /// Creates the file and reserves its space on the disk.
  ///
  /// - Throws: an I/O error, also if the disk is too full.
  public init(path: String, tensors: [(name: String, dtype: DType, shape: [Int])]) throws {
    let layout = try SafetensorsLayout(tensors)
    let file = try File(writing: path, truncate: true)
    try file.reserve(Self.headerBytes + layout.byteCount)
    self.layout = layout
    self.file = file
  }

  /// Maps the bytes of a tensor for reading and writing.
  public func map(_ name: String) throws -> MappedBuffer { try file.mapForWriting(range(name)) }

  /// Writes all bytes of a tensor.
  ///
  /// - Throws: an I/O error; an internal fault if there is no such tensor or it has another size.
  public func write(_ bytes: RawSpan, to name: String) throws {
    let range = try range(name)
    guard bytes.byteCount == range.count else {
      throw EspalierError.internalFault(
        "\(bytes.byteCount) bytes were given for \(name), which has \(range.count).", subject: file.path)
    }
    try file.write(bytes, at: range.lowerBound)
  }

  /// Writes all elements of a tensor.
  public func write<Element: BitwiseCopyable>(_ elements: [Element], to name: String) throws {
    try write(elements.span.bytes, to: name)
  }

  /// Writes all elements of a tensor.
  public func write<Element: BitwiseCopyable>(_ elements: borrowing Buffer<Element>, to name: String) throws {
    try write(elements.span.bytes, to: name)
  }

  /// Writes the header; returns once the whole file is on the disk.
  public consuming func finish(metadata: [(key: String, value: String)] = []) throws {
    let header = layout.header(metadata: [SafetensorsLayout.torchFormat] + metadata, unit: Self.headerBytes)
    guard header.count == Self.headerBytes else {
      throw EspalierError.internalFault("the header is too long.", subject: file.path)
    }
    try file.write(header, at: 0)
    try file.sync()
  }

  private func range(_ name: String) throws -> Range<Int> {
    guard let range = layout.range(name) else {
      throw EspalierError.internalFault("there is no tensor \(name).", subject: file.path)
    }
    return Self.headerBytes + range.lowerBound..<Self.headerBytes + range.upperBound
  }
}
