import EspalierCore

/// The positions of the tensors in a new safetensors file: one after the other, in the given order.
struct SafetensorsLayout: Sendable {
  struct Tensor: Sendable {
    let name: String
    let dtype: DType
    let shape: [Int]
    /// Position of its bytes after the header.
    let range: Range<Int>
  }

  let tensors: [Tensor]
  /// Bytes of all tensors.
  let byteCount: Int

  init(_ list: [(name: String, dtype: DType, shape: [Int])]) throws {
    var tensors: [Tensor] = []
    var offset = 0
    for tensor in list {
      guard let count = elementCount(of: tensor.shape + [tensor.dtype.byteCount]),
        case (let next, let overflow) = offset.addingReportingOverflow(count), !overflow
      else {
        throw EspalierError.internalFault("the shape \(tensor.shape) is too large.")
      }
      tensors.append(
        Tensor(name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, range: offset..<next))
      offset = next
    }
    self.tensors = tensors
    byteCount = offset
  }

  /// The header: the length of its text, and the text, padded with spaces so that all is a multiple of `unit` bytes.
  func header(metadata: [(String, String)], unit: Int = 8) -> [UInt8] {
    let head = [(key: "format", value: JSON.string("pt"))]
    let notes = head + metadata.map { (key: $0.0, value: .string($0.1)) }
    let members = tensors.map { tensor -> (key: String, value: JSON) in
      let offsets: JSON = [.integer(tensor.range.lowerBound), .integer(tensor.range.upperBound)]
      return (
        tensor.name,
        [
          "dtype": .string(tensor.dtype.rawValue), "shape": .array(tensor.shape.map(JSON.integer)),
          "data_offsets": offsets,
        ]
      )
    }
    let object = JSONObject([(key: "__metadata__", value: .object(JSONObject(notes)))] + members)
    var text = Array(JSON.object(object).text.utf8)
    text += [UInt8](repeating: 0x20, count: (unit - (8 + text.count) % unit) % unit)
    return withUnsafeBytes(of: UInt64(text.count).littleEndian) { Array($0) } + text
  }
}
