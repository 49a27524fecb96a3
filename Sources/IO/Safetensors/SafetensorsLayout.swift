import EspalierCore

/// A tensor of a new safetensors file.
public struct NewTensor: Sendable {
  public let name: String
  /// The name of the element type.
  public let type: String
  public let shape: [Int]
  /// Bytes of all elements.
  public let byteCount: Int

  /// - Throws: an internal fault if the shape is too large.
  public init(_ name: String, _ dtype: DType, _ shape: [Int]) throws {
    guard let count = elementCount(of: shape + [dtype.byteCount]) else {
      throw EspalierError.internalFault("the shape \(shape) is too large.")
    }
    (self.name, type, self.shape, byteCount) = (name, dtype.rawValue, shape, count)
  }

  /// A copy of a tensor, also of a type that is not known.
  public init(copyOf entry: TensorEntry) {
    (name, type, shape, byteCount) = (entry.name, entry.type, entry.shape, entry.range.count)
  }

  /// Bytes of an element; 1 if the type is not known.
  fileprivate var width: Int { DType(rawValue: type)?.byteCount ?? 1 }
}

/// The positions of the tensors in a new safetensors file, without gaps.
struct SafetensorsLayout: Sendable {
  /// In the order of the header.
  let tensors: [NewTensor]
  /// For each tensor the position of its bytes after the header.
  let ranges: [Range<Int>]
  /// Bytes of all tensors.
  let byteCount: Int

  /// - Parameter isAligned: whether wider elements come first, as torch needs it to map them; otherwise the bytes have the order of the
  ///   header.
  /// - Throws: an internal fault if the tensors are too large.
  init(_ tensors: [NewTensor], isAligned: Bool = false) throws {
    var ranges = [Range<Int>](repeating: 0..<0, count: tensors.count)
    var offset = 0
    let order =
      isAligned
      ? tensors.indices.sorted { (tensors[$1].width, $0) < (tensors[$0].width, $1) } : Array(tensors.indices)
    for index in order {
      let (next, overflow) = offset.addingReportingOverflow(tensors[index].byteCount)
      guard !overflow else { throw EspalierError.internalFault("the tensors are too large.") }
      ranges[index] = offset..<next
      offset = next
    }
    self.tensors = tensors
    self.ranges = ranges
    byteCount = offset
  }

  init(_ list: [(name: String, dtype: DType, shape: [Int])]) throws {
    try self.init(list.map { try NewTensor($0.name, $0.dtype, $0.shape) })
  }

  /// The position of a tensor after the header.
  func range(_ name: String) -> Range<Int>? {
    tensors.firstIndex { $0.name == name }.map { ranges[$0] }
  }

  /// The header: the length of its text, and the text, padded with spaces so that all is a multiple of `unit` bytes.
  func header(metadata: [(key: String, value: String)], unit: Int = 8) -> [UInt8] {
    let notes = JSONObject(metadata.map { (key: $0.key, value: JSON.string($0.value)) })
    let members = zip(tensors, ranges).map { tensor, range -> (key: String, value: JSON) in
      let offsets: JSON = [.integer(range.lowerBound), .integer(range.upperBound)]
      return (
        tensor.name,
        [
          "dtype": .string(tensor.type), "shape": .array(tensor.shape.map(JSON.integer)),
          "data_offsets": offsets,
        ]
      )
    }
    let head: [(key: String, value: JSON)] =
      metadata.isEmpty ? [] : [(key: "__metadata__", value: .object(notes))]
    var text = Array(JSON.object(JSONObject(head + members)).text.utf8)
    text += [UInt8](repeating: 0x20, count: (unit - (8 + text.count) % unit) % unit)
    return withUnsafeBytes(of: UInt64(text.count).littleEndian) { Array($0) } + text
  }

  /// What libraries look for in the metadata of a file.
  static let torchFormat = (key: "format", value: "pt")
}
