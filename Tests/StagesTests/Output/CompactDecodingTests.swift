import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierStages
import EspalierTestSupport
import Testing

/// A decoder gives the same bits for a dense folder and its compact form.
@Suite struct CompactDecodingTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  /// Writes a checkpoint some of whose weights are zero, dense and compact.
  private func write(_ dtype: DType, twoOfFour: Bool) throws {
    var checkpoint = TinyCheckpoint()
    (checkpoint.hidden, checkpoint.inner, checkpoint.dtype) = (64, 104, dtype)
    try checkpoint.write(to: folder.path + "/whole")
    let whole = try Checkpoint(folder: folder.path + "/whole")
    try Folder.create(folder.path + "/dense")
    for name in try whole.fileNames() where !name.hasSuffix(".safetensors") {
      try Folder.writeAtomically(
        Folder.read(whole.folder + "/" + name), to: folder.path + "/dense/" + name)
    }
    var random = SeededRandom(seed: 3)
    for shard in whole.shards {
      let path = whole.folder + "/" + shard
      let (entries, file) = (try SafetensorsHeader(path: path).tensors, try SafetensorsFile(path: path))
      var writer = try SafetensorsWriter(
        path: folder.path + "/dense/" + shard,
        tensors: try entries.map { ($0.name, try #require($0.dtype), $0.shape) })
      for entry in entries {
        var bytes = try file.tensor(entry.name).withBytes { Array($0) }
        let size = try #require(entry.dtype).byteCount
        if entry.name.contains("proj") {
          for element in 0..<bytes.count / size {
            let isZero =
              twoOfFour ? element % 4 == (element / 4) % 3 || element % 4 == 3 : Bool.random(using: &random)
            if isZero { for byte in 0..<size { bytes[element * size + byte] = 0 } }
          }
        }
        try writer.append(bytes)
      }
      try writer.finish()
    }
    _ = try Repacking(folder.path + "/dense", to: folder.path + "/compact", .pack(describing: false)) {
      _, _ in
    }
  }

  private func logits(_ name: String, _ precision: Precision, threads: Int = 2, reading: ReadMode = .map)
    throws
    -> [[Float]]
  {
    let model = try Model(folder: folder.path + "/" + name, reading: reading)
    let decoding = try Decoding(model, capacity: 40, precision: precision, on: Device(threads: threads))
    var all = [try decoding.append((0..<21).map { Int32($0 * 7 % 200) }).array()]
    for id in 0..<8 { all.append(try decoding.append([Int32(id * 11)]).array()) }
    return all
  }

  @Test(arguments: [DType.bf16, .f16, .f32], [false, true])
  func logitsAreTheSameBits(dtype: DType, twoOfFour: Bool) throws {
    try write(dtype, twoOfFour: twoOfFour)
    for precision in Precision.allCases where precision.isAvailable {
      let dense = try logits("dense", precision)
      #expect(try logits("compact", precision) == dense)
      #expect(try logits("compact", precision, threads: 1) == dense)
      #expect(try logits("compact", precision, threads: 3, reading: .pread) == dense)
    }
  }
}
