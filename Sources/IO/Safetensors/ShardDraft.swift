import EspalierCore

/// A new shard whose tensors are written piece by piece, in any order.
public struct ShardDraft: ~Copyable {
  private let file: File
  /// Position of each tensor in the file.
  private let places: [String: Range<Int>]
  private var unsynced = 0

  /// Bytes that wait for the disk take memory, so they are synced early.
  private static let unsyncedBytes = 64 << 20

  /// Creates the file and writes its header.
  ///
  /// - Parameters:
  ///   - tensors: in the order of the header.
  ///   - isAligned: whether the bytes of wider elements come first; otherwise they have the order of the header.
  ///   - metadata: the members of `__metadata__`.
  ///   - creates: false if the file with its header is there already, and other processes write to it, too.
  /// - Throws: an I/O error.
  public init(
    path: String, tensors: [NewTensor], isAligned: Bool, metadata: [(key: String, value: String)],
    creates: Bool = true
  ) throws {
    let layout = try SafetensorsLayout(tensors, isAligned: isAligned)
    let header = layout.header(metadata: metadata)
    try self.init(
      path: path, header: header, end: header.count + layout.byteCount, creates: creates,
      places: Dictionary(
        zip(tensors, layout.ranges).map {
          ($0.name, header.count + $1.lowerBound..<header.count + $1.upperBound)
        },
        uniquingKeysWith: { first, _ in first }))
  }

  /// Creates the file with the same header, byte for byte, as the shard at `source` has.
  ///
  /// - Parameter creates: false if the file is there already, and other processes write to it, too.
  /// - Throws: an I/O error.
  public init(path: String, tensors: [TensorEntry], likeShard source: String, creates: Bool = true) throws {
    let file = try File(reading: source)
    let size = try file.size()
    try self.init(
      path: path, header: try file.bytes(0..<(tensors.first?.range.lowerBound ?? size)), end: size,
      creates: creates,
      places: Dictionary(tensors.map { ($0.name, $0.range) }, uniquingKeysWith: { first, _ in first }))
  }

  private init(path: String, header: [UInt8], end: Int, creates: Bool, places: [String: Range<Int>]) throws {
    let file = creates ? try File(writing: path, truncate: true) : try File(changing: path)
    if creates {
      try file.write(header, at: 0)
      try file.resize(to: end)
    }
    self.file = file
    self.places = places
  }

  /// Writes some bytes of a tensor.
  ///
  /// - Parameter offset: from the tensor's first byte.
  /// - Throws: an I/O error; an internal fault if there is no such tensor, or it ends before.
  public mutating func write(_ bytes: RawSpan, to name: String, at offset: Int) throws {
    try file.write(bytes, at: place(name, offset..<offset + bytes.byteCount).lowerBound)
    try wrote(bytes.byteCount)
  }

  /// Copies some bytes of a tensor of another file to the same offset of a tensor.
  ///
  /// - Throws: an I/O error; an internal fault if there is no such tensor, or it ends before.
  public mutating func copy(
    _ bytes: Range<Int>, of entry: TensorEntry, in source: borrowing File, to name: String
  ) throws {
    precondition(bytes.lowerBound >= 0 && bytes.upperBound <= entry.range.count)
    let start = entry.range.lowerBound
    try file.copy(
      start + bytes.lowerBound..<start + bytes.upperBound, of: source, to: place(name, bytes).lowerBound)
    try wrote(bytes.count)
  }

  /// Returns once the whole file is on the disk.
  public consuming func finish() throws { try file.sync() }

  private func place(_ name: String, _ bytes: Range<Int>) throws -> Range<Int> {
    guard let range = places[name], bytes.lowerBound >= 0, bytes.upperBound <= range.count else {
      throw EspalierError.internalFault("there are no bytes \(bytes) of \(name).", subject: file.path)
    }
    return range.lowerBound + bytes.lowerBound..<range.lowerBound + bytes.upperBound
  }

  private mutating func wrote(_ bytes: Int) throws {
    unsynced += bytes
    guard unsynced >= Self.unsyncedBytes else { return }
    try file.sync()
    unsynced = 0
  }
}
