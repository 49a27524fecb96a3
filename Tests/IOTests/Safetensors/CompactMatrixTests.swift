import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierIO

/// Compact matrices in a checkpoint: what they look like, and what is refused.
@Suite struct CompactMatrixTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// A shard with these tensors and a configuration.
  private func checkpoint(_ tensors: [(name: String, dtype: DType, shape: [Int], bytes: [UInt8])]) throws
    -> Checkpoint
  {
    try Folder.writeAtomically(Array("{}".utf8), to: folder.path + "/config.json")
    var writer = try SafetensorsWriter(
      path: folder.path + "/model.safetensors", tensors: tensors.map { ($0.name, $0.dtype, $0.shape) })
    for tensor in tensors { try writer.append(tensor.bytes) }
    try writer.finish()
    return try Checkpoint(folder: folder.path)
  }

  private func little(_ values: [Int64]) -> [UInt8] {
    values.flatMap { value in (0..<8).map { UInt8(truncatingIfNeeded: value >> Int64(8 * $0)) } }
  }

  /// The parts of a compact matrix of 2 x 10: columns 0 and 9 of the first row, 3 of the second.
  private struct Parts {
    var shape: [Int64] = [2, 10]
    var offsets: [Int64]? = [0, 2]
    var mask: [UInt8] = [0b1, 0b10, 0b1000, 0]
    var count = 3
  }

  private func tensors(_ parts: Parts, extra: String? = nil) -> [(
    name: String, dtype: DType, shape: [Int], bytes: [UInt8]
  )] {
    var tensors: [(name: String, dtype: DType, shape: [Int], bytes: [UInt8])] = [
      ("a.m.shape", .i64, [parts.shape.count], little(parts.shape)),
      ("a.m.compressed", .bf16, [parts.count], (0..<parts.count).flatMap { [UInt8($0), 0x3F] }),
      ("a.m.bitmask", .u8, [2, parts.mask.count / 2], parts.mask),
    ]
    if let offsets = parts.offsets {
      tensors.append(("a.m.row_offsets", .i64, [offsets.count], little(offsets)))
    }
    if let extra { tensors.append((extra, .bf16, [1], [0, 0])) }
    return tensors
  }

  @Test func aCompactMatrixHasItsPlainNameAndShape() throws {
    let checkpoint = try checkpoint(tensors(Parts(), extra: "other"))
    #expect(checkpoint.tensors.keys.sorted() == ["a.m.weight", "other"])
    let tensor = try checkpoint.tensor("a.m.weight", shape: [2, 10])
    #expect(
      tensor.dtype == .bf16 && tensor.byteCount == 6 + 4 + 16 + 16 && tensor.shard == "model.safetensors")
    guard case .compact(let matrix) = tensor else { return #expect(Bool(false)) }
    try matrix.check()
    let error = #expect(throws: EspalierError.self) { try tensor.dense() }
    #expect(error?.description.contains("espalier unpack") == true)
  }

  /// Everything that does not fit together is told with the tensor and the place.
  @Test func damageIsTold() throws {
    func message(_ change: (inout Parts) -> Void, extra: String? = nil) -> String {
      var parts = Parts()
      change(&parts)
      do {
        let checkpoint = try checkpoint(tensors(parts, extra: extra))
        guard case .compact(let matrix) = checkpoint.tensors["a.m.weight"] else { return "not compact" }
        try matrix.check()
        return "no error"
      } catch {
        return "\(error)".replacingOccurrences(of: folder.path)
      }
    }
    #expect(message { _ in } == "no error")
    let shard = "DIR/model.safetensors: "
    #expect(
      message { $0.shape = [2, 10, 1] }
        == shard
        + "the tensor a.m.shape is I64 [3], not two I64; only matrices are read in compact form.")
    #expect(
      message { $0.shape = [-2, 10] }
        == shard + "the tensor a.m.shape says -2 x 10, which are not the sizes of a matrix.")
    for sizes in [[1 << 40, 1 << 40], [0, .max], [.max, .max], [1 << 31, 1 << 31], [0, 10], [2, 0]]
      as [[Int64]]
    {
      #expect(message { $0.shape = sizes }.contains("which are not the sizes of a matrix"))
    }
    #expect(message { $0.shape = [2, 17] }.contains("the tensor a.m.bitmask is U8 [2, 2], not U8 [2, 3]"))
    #expect(message { $0.shape = [3, 10] }.contains("the tensor a.m.bitmask is U8 [2, 2], not U8 [3, 2]"))
    #expect(message { $0.offsets = [0] }.contains("the tensor a.m.row_offsets is I64 [1], not I64 [2]"))
    #expect(message { $0.offsets = nil }.contains("has 10 columns, which are no groups of 4"))
    #expect(message { $0.count = 21 }.contains("needs a list of at most that many values"))
    #expect(
      message { $0.count = 4 }
        == shard
        + "the tensor a.m.compressed has 4 values, but a.m.bitmask keeps 3; the file is damaged.")
    #expect(message { $0.count = 2 }.contains("has 2 values, but a.m.bitmask keeps 3"))
    #expect(
      message { $0.offsets = [0, 3] }
        == shard
        + "the tensor a.m.row_offsets says that row 1 begins at value 3, but the mask keeps 2 before it; the file is damaged."
    )
    #expect(message { $0.offsets = [0, .max] }.contains("says that row 1 begins at value \(Int.max)"))
    #expect(message { $0.offsets = [-1, 2] }.contains("says that row 0 begins at value -1"))
    #expect(
      message { $0.mask[3] = 0b100 }
        == shard + "the tensor a.m.bitmask has bits past column 10 in row 1; the file is damaged.")
    #expect(
      message({ _ in }, extra: "a.m.weight")
        == shard + "the weight a.m.weight is stored twice, dense and compact; remove one of them.")
  }

  @Test func twoOfFourKeepsHalfOfEachRow() throws {
    func check(_ mask: [UInt8]) throws {
      let checkpoint = try checkpoint([
        ("m.shape", .i64, [2, 1], little([2, 8])), ("m.compressed", .f16, [2, 4], Array(0..<16)),
        ("m.bitmask", .u8, [2, 1], mask),
      ])
      guard case .compact(let matrix) = checkpoint.tensors["m.weight"] else { return #expect(Bool(false)) }
      try matrix.check()
    }
    try check([0b1100_0011, 0b1001_0110])
    let error = #expect(throws: EspalierError.self) { try check([0b1111_1000, 0b0000_0111]) }
    #expect(error?.description.contains("keeps 5 weights of row 0, not half of 8") == true)
  }

  @Test func aModuleWithoutItsShapeIsTold() throws {
    let error = #expect(throws: EspalierError.self) {
      try checkpoint([("m.compressed", .f16, [1], [0, 0]), ("m.bitmask", .u8, [1, 1], [1])])
    }
    #expect(error?.description.contains("the tensor m.shape is missing") == true)
    // Other tensors of these names are left alone.
    #expect(try checkpoint([("m.compressed", .f16, [1], [0, 0])]).tensors.keys.sorted() == ["m.compressed"])
  }
}

extension String {
  fileprivate func replacingOccurrences(of path: String) -> String {
    split(separator: path, omittingEmptySubsequences: false).joined(separator: "DIR")
  }
}
