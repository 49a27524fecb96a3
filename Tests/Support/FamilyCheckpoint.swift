import EspalierCore
import EspalierIO
import Foundation

/// A tiny checkpoint of a family of models, described by `Golden/families/NAME.json`, with the results of transformers.
///
/// Values of weights are not stored: `tools/family_rule.py` says how they are generated.
public struct FamilyCheckpoint: Sendable {
  /// A tensor of the checkpoint; value i is `mean + spread * u(name, i)`.
  public struct Tensor: Sendable {
    public let name: String
    public let shape: [Int]
    public let mean: Float
    public let spread: Float

    /// The values before they are rounded to the checkpoint's type.
    public var values: [Float] { FamilyCheckpoint.values(self) }
  }

  /// Rows of the model's output for one text.
  public struct Expected: Sendable {
    /// Token ids, empty for an image.
    public let ids: [Int32]
    /// The positions whose rows are stored.
    public let rows: [Int]
    /// `rows.count` rows of equal length, one after another.
    public let values: [Float]
  }

  public let name: String
  /// The content of config.json.
  public let configuration: JSON
  /// The type of all tensors in the file, F32 or BF16.
  public let dtype: DType
  /// Whether the rows are logits; otherwise they are last hidden states.
  public let givesLogits: Bool
  /// The tensors in the order of the file.
  public let tensors: [Tensor]
  /// The digest of all tensors' bytes in the order of the file.
  public let digest: String
  /// The image to compute with, `1 x channels x height x width`; nil for texts.
  public let pixels: Tensor?
  /// Results by the number of tokens, as the file names them: "1", "2", "17", "300", or "image".
  public let expected: [String: Expected]

  /// The names of all families with golden values.
  public static func names() throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: Places.golden + "/families")
      .filter { $0.hasSuffix(".json") }.map { String($0.dropLast(".json".count)) }.sorted()
  }

  /// Reads the golden file of a family.
  ///
  /// - Throws: bad input if the file is missing or damaged.
  public init(_ name: String) throws {
    let path = Places.golden + "/families/\(name).json"
    let json = try Folder.readJSON(path)
    guard let configuration = json["config"], let tensors = json["tensors"]?.array?.map(Self.tensor),
      let dtype = json["dtype"]?.string.flatMap(DType.init(rawValue:)), let kind = json["kind"]?.string,
      let digest = json["sha256"]?.string, let logits = json["logits"]?.object
    else { throw Self.damaged(path) }
    self.name = name
    self.configuration = configuration
    self.dtype = dtype
    self.tensors = tensors.compactMap(\.self)
    self.digest = digest
    givesLogits = kind == "logits"
    pixels = json["pixels"].flatMap(Self.tensor)
    var expected: [String: Expected] = [:]
    for (key, value) in logits.members {
      guard let rows = json["rows"]?[key]?.array, let data = value.string.flatMap({ Data(base64Encoded: $0) })
      else { throw Self.damaged(path) }
      expected[key] = Expected(
        ids: (json["ids"]?[key]?.array ?? []).compactMap { $0.integer.map(Int32.init) },
        rows: rows.compactMap(\.integer), values: Self.floats(data))
    }
    self.expected = expected
    guard self.tensors.count == tensors.count else { throw Self.damaged(path) }
  }

  /// Writes config.json and model.safetensors.
  public func write(to folder: String) throws {
    try Folder.create(folder)
    try Folder.writeAtomically(Array(configuration.prettyText.utf8), to: folder + "/config.json")
    var writer = try SafetensorsWriter(
      path: folder + "/model.safetensors", tensors: tensors.map { ($0.name, dtype, $0.shape) })
    for tensor in tensors {
      if dtype == .bf16 {
        try writer.append(tensor.values.map(Self.bf16))
      } else {
        try writer.append(tensor.values)
      }
    }
    try writer.finish()
  }

  private static func values(_ tensor: Tensor) -> [Float] {
    var seed: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in tensor.name.utf8 { seed = (seed ^ UInt64(byte)) &* 0x100_0000_01b3 }
    return (0..<tensor.shape.reduce(1, *)).map { index in
      var z = seed &+ UInt64(index) &* 0x9e37_79b9_7f4a_7c15
      z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
      z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
      z ^= z >> 31
      let scaled: Float = tensor.spread * (Float(z >> 40) / 8_388_608 - 1)
      return tensor.mean + scaled
    }
  }

  private static func bf16(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    return UInt16(truncatingIfNeeded: (bits &+ 0x7fff &+ ((bits >> 16) & 1)) >> 16)
  }

  private static func tensor(_ item: JSON) -> Tensor? {
    guard let parts = item.array, parts.count == 4, let name = parts[0].string, let shape = parts[1].array,
      let mean = parts[2].double, let spread = parts[3].double
    else { return nil }
    return Tensor(
      name: name, shape: shape.compactMap(\.integer), mean: Float(mean), spread: Float(spread))
  }

  private static func floats(_ data: Data) -> [Float] {
    let bytes = Array(data)
    return stride(from: 0, to: bytes.count - 3, by: 4).map { start in
      Float(bitPattern: bytes[start..<start + 4].reversed().reduce(0) { $0 << 8 | UInt32($1) })
    }
  }

  private static func damaged(_ path: String) -> EspalierError {
    .badInput("these golden values are damaged; make them again with tools/make_families.py.", subject: path)
  }
}
