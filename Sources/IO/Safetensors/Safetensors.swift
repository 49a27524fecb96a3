import EspalierCore

/// One tensor of a safetensors file: name, type, shape and position.
public struct TensorEntry: Sendable, Hashable {
  public let name: String
  /// The name of the element type in the file.
  public let type: String
  /// The element type; nil if unknown to this version. The bytes of such a tensor can still be copied.
  public let dtype: DType?
  public let shape: [Int]
  /// Position of the bytes in the file.
  public let range: Range<Int>

  init(name: String, type: String, shape: [Int], range: Range<Int>) {
    (self.name, self.type, self.shape, self.range) = (name, type, shape, range)
    dtype = DType(rawValue: type)
  }
}

/// The header of a safetensors file, checked against the size of the file.
///
/// Nothing in it is trusted: its length, the JSON, every type, shape and offset are checked before use. Tensors must follow each
/// other without gaps or overlaps up to the end of the file.
public struct SafetensorsHeader: Sendable {
  /// Tensors in the order of their bytes.
  public let tensors: [TensorEntry]
  /// Names of the tensors in the order of the header's text, which need not be that of the bytes.
  public let names: [String]
  /// The members of `__metadata__`, in their order.
  public let metadata: [(key: String, value: String)]

  static let longest = 100_000_000

  /// Reads the header of the file at `path`.
  ///
  /// - Throws: an I/O error or bad input that names the file and the tensor.
  public init(path: String) throws {
    let file = try Folder.file(path)
    let size = try file.size()
    do {
      self = try about(path) {
        guard size >= 8 else {
          throw EspalierError.badInput(
            "the file has \(size) bytes; it is not a safetensors file, or was cut off. Fetch it again.")
        }
        let claimed = try file.bytes(0..<8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        let length = try Self.length(claimed, fileSize: size)
        let text = try file.bytes(8..<8 + length)
        return try Self(text: text.span.bytes, fileSize: size)
      }
    } catch {
      try ForeignFile.refuse(path)
      throw error
    }
  }

  /// Checks the length of the header's text that the first eight bytes of the file claim.
  static func length(_ claimed: UInt64, fileSize: Int) throws -> Int {
    guard claimed <= UInt64(longest) else {
      throw EspalierError.badInput(
        "the header claims \(claimed) bytes; at most \(longest) are allowed. This is not a safetensors file."
      )
    }
    guard 8 + Int(claimed) <= fileSize else {
      throw EspalierError.badInput(
        "the header claims \(claimed) bytes, but the file has only \(fileSize). It was cut off; fetch it again."
      )
    }
    return Int(claimed)
  }

  /// Reads the JSON text of a header, which follows the eight bytes of its length.
  init(text: RawSpan, fileSize: Int) throws {
    var limits = JSON.Limits()
    limits.depth = 8
    let dataStart = 8 + text.byteCount
    guard let members = try JSON(parsing: text, limits: limits).object?.members else {
      throw EspalierError.badInput("the header is not a JSON object.")
    }
    var tensors: [TensorEntry] = []
    var metadata: [(key: String, value: String)] = []
    for (name, value) in members {
      if name == "__metadata__" {
        for (key, value) in value.object?.members ?? [] {
          guard let text = value.string else {
            throw EspalierError.badInput("__metadata__.\(key) is not a string.")
          }
          metadata.append((key, text))
        }
      } else {
        tensors.append(
          try about("tensor \(name.prefix(200))") {
            try Self.entry(name, value, dataStart: dataStart, fileSize: fileSize)
          })
      }
    }
    names = tensors.map(\.name)
    tensors.sort { ($0.range.lowerBound, $0.range.upperBound) < ($1.range.lowerBound, $1.range.upperBound) }
    var end = dataStart
    for tensor in tensors {
      guard tensor.range.lowerBound == end else {
        throw EspalierError.badInput(
          "its bytes start at \(tensor.range.lowerBound), but the previous tensor ends at \(end); the header is damaged.",
          subject: "tensor \(tensor.name.prefix(200))")
      }
      end = tensor.range.upperBound
    }
    guard end == fileSize else {
      throw EspalierError.badInput(
        "the tensors end at byte \(end), but the file has \(fileSize); it is damaged or cut off. Fetch it again."
      )
    }
    self.tensors = tensors
    self.metadata = metadata
  }

  private static func entry(_ name: String, _ value: JSON, dataStart: Int, fileSize: Int) throws
    -> TensorEntry
  {
    guard let dtypeName = value["dtype"]?.string else {
      throw EspalierError.badInput("its dtype is missing.")
    }
    guard let shape = value["shape"]?.array?.map(\.integer), !shape.contains(nil),
      let count = elementCount(of: shape.compactMap(\.self))
    else {
      throw EspalierError.badInput("its shape is not a list of sizes.")
    }
    guard let offsets = value["data_offsets"]?.array, offsets.count == 2, let start = offsets[0].integer,
      let end = offsets[1].integer,
      start >= 0, start <= end, end <= fileSize - dataStart
    else {
      throw EspalierError.badInput(
        "its data_offsets do not lie within the file of \(fileSize) bytes; the file is damaged or was cut off. Fetch it again."
      )
    }
    let dtype = DType(rawValue: dtypeName)
    if let dtype {
      let (bytes, overflow) = count.multipliedReportingOverflow(by: dtype.byteCount)
      guard !overflow, bytes == end - start else {
        throw EspalierError.badInput(
          "\(dtypeName) \(shape.compactMap(\.self)) does not fill its \(end - start) bytes.")
      }
    }
    return TensorEntry(
      name: name, type: dtypeName, shape: shape.compactMap(\.self), range: dataStart + start..<dataStart + end
    )
  }
}

/// A tensor in a safetensors file, whose bytes are read on request.
public struct StoredTensor: Sendable {
  public let entry: TensorEntry
  public let file: FileBytes
  public var name: String { entry.name }
  public var shape: [Int] { entry.shape }
  public var dtype: DType? { entry.dtype }

  public init(entry: TensorEntry, file: FileBytes) throws {
    guard entry.range.upperBound <= file.count else {
      throw EspalierError.badInput(
        "the file became shorter while it was read; fetch it again.", subject: file.path)
    }
    self.entry = entry
    self.file = file
  }

  /// For IO and Kernels only: the bytes, little-endian and row-major, valid within `body`.
  public func withBytes<Result: ~Copyable, Failure: Error>(
    _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try file.withBytes(entry.range, body)
  }

  /// For IO and Kernels only: some of the bytes, valid within `body`; see ``FileBytes/withBytes(_:using:_:)``.
  public func withBytes<Result: ~Copyable, Failure: Error>(
    _ bytes: Range<Int>, using scratch: inout ReadScratch,
    _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try file.withBytes(place(bytes), using: &scratch, body)
  }

  /// For IO and Kernels only: some of the bytes, valid within `body`.
  public func withBytes<Result: ~Copyable, Failure: Error>(
    _ bytes: Range<Int>, _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try file.withBytes(place(bytes), body)
  }

  private func place(_ bytes: Range<Int>) -> Range<Int> {
    precondition(bytes.lowerBound >= 0 && bytes.upperBound <= entry.range.count)
    return entry.range.lowerBound + bytes.lowerBound..<entry.range.lowerBound + bytes.upperBound
  }

  /// Tells the system to start reading the tensor.
  public func prefetch() { file.prefetch(entry.range) }

  /// Drops the tensor from memory and from the page cache: it will not be read again soon.
  public func release() { file.forget(entry.range) }

  /// Gives the mapped pages of some of the tensor's bytes back to the system.
  public func release(_ bytes: Range<Int>) { file.release(place(bytes)) }

  /// SHA-256 of the bytes.
  ///
  /// - Parameter requiringFinite: whether an infinity or a NaN in a tensor of floats is an error.
  /// - Throws: an I/O error if the bytes cannot be read; bad input that names the first element that is not finite.
  public func digest(requiringFinite: Bool = false) throws -> Digest {
    let check = requiringFinite ? dtype.flatMap(FiniteCheck.init) : nil
    var hash = SHA256()
    var scratch = ReadScratch()
    for part in parts(of: entry.range.count, size: 1 << 20) {
      let notFinite = withBytes(part, using: &scratch) { bytes in
        hash.update(bytes.bytes)
        return check?.firstNotFinite(bytes)
      }
      release(part)
      if let notFinite, let dtype {
        let (index, width) = (part.lowerBound / dtype.byteCount + notFinite, max(1, shape.last ?? 1))
        throw EspalierError.badInput(
          "the tensor \(name) holds a value that is not finite at row \(index / width), column \(index % width). Repair or replace the checkpoint; such a model cannot be pruned.",
          subject: file.path)
      }
    }
    release()
    try file.requireReadable()
    return hash.finalize()
  }
}

/// A mapped safetensors file, with its tensors by name.
public struct SafetensorsFile: Sendable {
  public let header: SafetensorsHeader
  private let file: FileBytes

  public init(path: String) throws {
    header = try SafetensorsHeader(path: path)
    file = try FileBytes(path)
  }

  /// The tensor of this name.
  ///
  /// - Throws: bad input if it is missing, or has another type or shape than the given ones.
  public func tensor(_ name: String, dtype: DType? = nil, shape: [Int]? = nil) throws -> StoredTensor {
    guard let entry = header.tensors.first(where: { $0.name == name }) else {
      throw EspalierError.badInput("the tensor \(name) is missing.", subject: file.path)
    }
    guard dtype == nil || entry.dtype == dtype, shape == nil || entry.shape == shape else {
      throw EspalierError.badInput(
        "the tensor \(name) is \(entry.dtype?.rawValue ?? "?") \(entry.shape), not \(dtype?.rawValue ?? "?") \(shape ?? []).",
        subject: file.path)
    }
    return try StoredTensor(entry: entry, file: file)
  }
}

extension StoredTensor {
  /// All elements of an I32 or I64 tensor.
  ///
  /// - Throws: bad input if it has another type or an element does not fit 32 bits.
  public func integers() throws -> [Int32] {
    let values: [Int32?] = withBytes { bytes in
      switch dtype {
      case .i32:
        (0..<bytes.count / 4).map {
          Int32(littleEndian: bytes.loadUnaligned(fromByteOffset: $0 * 4, as: Int32.self))
        }
      case .i64:
        (0..<bytes.count / 8).map {
          Int32(exactly: Int64(littleEndian: bytes.loadUnaligned(fromByteOffset: $0 * 8, as: Int64.self)))
        }
      default: [nil]
      }
    }
    return try values.map { value in
      guard let value else {
        throw EspalierError.badInput(
          "the tensor \(name) does not hold 32-bit integers.", subject: file.path)
      }
      return value
    }
  }

  /// All elements of an F64 tensor.
  ///
  /// - Throws: bad input if it has another type.
  public func doubles() throws -> [Double] {
    guard dtype == .f64 else {
      throw EspalierError.badInput("the tensor \(name) is not F64.", subject: file.path)
    }
    return withBytes { bytes in
      (0..<bytes.count / 8).map {
        Double(bitPattern: UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: $0 * 8, as: UInt64.self)))
      }
    }
  }
}
