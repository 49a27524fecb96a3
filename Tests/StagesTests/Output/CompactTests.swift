import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierTestSupport
import Testing

@testable import EspalierStages

/// Compact folders: written by emit and by pack, restored by unpack, and read like dense ones by everything else.
@Suite struct CompactTests {
  private static let magnitude = "warmStart: {method: magnitude, sparsity: 0.5}"

  /// Every file of a folder by its digest.
  private func files(_ folder: String) throws -> [String: String] {
    Dictionary(
      try Checkpoint(folder: folder).fileNames().map {
        ($0, try SHA256.digest(ofFile: folder + "/" + $0).hex)
      },
      uniquingKeysWith: { first, _ in first })
  }

  @discardableResult
  private func repack(_ source: String, to output: String, _ direction: Repacking.Direction) throws
    -> Repacking
  {
    try Repacking(source, to: output, direction) { _, _ in }
  }

  private func compactNames(_ folder: String) throws -> [String] {
    try Checkpoint(folder: folder).tensors.filter { if case .compact = $0.value { true } else { false } }
      .keys.sorted()
  }

  /// What emit writes in both forms, and what pack and unpack make of each, are the same bytes in every file.
  @Test(
    arguments: ["sparsity: 0.5", "sparsity: 0.7", "keep: 2, of: 4", "keep: 4, of: 8"],
    [(DType.f32, 1), (.bf16, 3), (.f16, 2)])
  func packAndUnpackAreInverse(pattern: String, storage: (dtype: DType, shards: Int)) throws {
    var checkpoint = TinyCheckpoint()
    (checkpoint.hidden, checkpoint.inner) = (64, 96)
    (checkpoint.dtype, checkpoint.shards) = (storage.dtype, storage.shards)
    let bench = try Workbench(checkpoint)
    try bench.write("kept", to: bench.model + "/README.md")
    let recipe = "stages: [{warmStart: {method: magnitude, \(pattern)}}, {emit: {format: both}}]"
    let dense = try bench.run(recipe)
    let compact = dense + "-compact"
    #expect(try compactNames(compact).count == 14)
    #expect(try compactNames(dense).isEmpty)
    let isTwoOfFour = pattern == "keep: 2, of: 4"
    for shard in try Checkpoint(folder: compact).headers.values {
      #expect(shard.names.contains { $0.hasSuffix(".row_offsets") } == !isTwoOfFour)
      // Elements lie at multiples of their size.
      let start = shard.tensors[0].range.lowerBound
      for tensor in shard.tensors {
        #expect((tensor.range.lowerBound - start) % (tensor.dtype?.byteCount ?? 1) == 0 && start % 8 == 0)
      }
    }
    for folder in [dense, compact] {
      #expect(try Verification(folder: folder, on: device).findings.isEmpty)
    }
    let (packed, unpacked) = (bench.folder.path + "/packed", bench.folder.path + "/unpacked")
    let result = try repack(dense, to: packed, .pack(describing: false))
    #expect(result.matrices == 14 && result.bytesAfter < result.bytesBefore)
    try repack(compact, to: unpacked, .unpack)
    #expect(try files(packed) == files(compact))
    #expect(try files(unpacked) == files(dense))
    let added = try Set(files(compact).keys).subtracting(files(dense).keys)
    #expect(added == ["README.compact.md"])
    for (name, digest) in try files(dense)
    where !name.hasSuffix(".safetensors") && !name.hasSuffix(".index.json") && name != "espalier.json"
      && name != "recipe.yaml"
    {
      #expect(try files(compact)[name] == digest, "\(name)")
    }
    // With words in the configuration, which unpack takes out again.
    let (described, restored) = (bench.folder.path + "/described", bench.folder.path + "/restored")
    try repack(dense, to: described, .pack(describing: true))
    let configuration = try Checkpoint(folder: described).configuration["quantization_config"]
    #expect(
      configuration?["sparsity_config"]?["format"]?.string
        == (isTwoOfFour ? "sparse-24-bitmask" : "sparse-bitmask"))
    #expect(try Model(folder: described).outline.blocks.count == 2)
    try repack(described, to: restored, .unpack)
    #expect(
      try Checkpoint(folder: restored).tensors.mapValues { try $0.dense().digest() }
        == Checkpoint(folder: dense).tensors.mapValues { try $0.dense().digest() })
    #expect(try Checkpoint(folder: restored).configuration == Checkpoint(folder: dense).configuration)
  }

  /// Tensors of every type in any order, at odd places; negative zeros, NaNs and zeros among the kept values.
  @Test func everyBitComesBack() throws {
    let folder = try TemporaryFolder()
    let (source, packed, restored) = (folder.path + "/a", folder.path + "/b", folder.path + "/c")
    try Folder.create(source)
    try Folder.writeAtomically(Array("{}\n".utf8), to: source + "/config.json")
    let special: [UInt16] = [0x8000, 0x7FC1, 0xFFC0, 0x0001, 0x7F80, 0, 0, 0, 0, 0, 0, 0x8000]
    let rare = [UInt32](repeating: 0, count: 66) + [0x8000_0000, 0x7FC0_1234, 1]
    var writer = try SafetensorsWriter(
      path: source + "/model.safetensors",
      tensors: [
        ("odd", .u8, [3]), ("x.weight", .bf16, [48, 12]), ("b.weight", .f32, [23, 3]), ("norm", .f64, [1]),
        ("few.weight", .bf16, [1, 3]), ("x.bias", .f32, [2]), ("empty.weight", .bf16, [0, 4]),
      ], metadata: [("note", "kept")])
    try writer.append([1, 2, 3] as [UInt8])
    for row in 0..<48 { try writer.append(row % 5 == 0 ? special : [UInt16](repeating: 0, count: 12)) }
    try writer.append(rare)
    try writer.append([1.5])
    try writer.append([0, 1, 2] as [UInt16])
    try writer.append([1, 2] as [Float])
    try writer.finish()
    try repack(source, to: packed, .pack(describing: false))
    // A matrix that would grow stays dense.
    #expect(try compactNames(packed) == ["b.weight", "x.weight"])
    try repack(packed, to: restored, .unpack)
    #expect(
      try Folder.read(restored + "/model.safetensors") == Folder.read(source + "/model.safetensors"))
    #expect(try Folder.names(in: restored) == Folder.names(in: source))
  }

  /// Negative zeros are values: with them a matrix may need more than two of four.
  @Test func aGroupOfTwoAndANegativeZeroIsNotTwoOfFour() throws {
    for (third, format) in [(UInt16(0), "twoOfFour"), (0x8000, "bitmask")] {
      let folder = try TemporaryFolder()
      try Folder.writeAtomically(Array("{}".utf8), to: folder.path + "/config.json")
      var writer = try SafetensorsWriter(
        path: folder.path + "/model.safetensors", tensors: [("m.weight", .bf16, [16, 64])])
      let group = [0, 0x3F80, 0, 0x4000] as [UInt16]
      try writer.append((0..<255).flatMap { _ in group } + [third, 1, 0, 1])
      try writer.finish()
      let weight = try LinearWeight(try #require(Checkpoint(folder: folder.path).tensors["m.weight"]))
      let form = try CompactForm(weight) { _ in }
      #expect(form.fitsTwoOfFour == (format == "twoOfFour"))
      #expect(form.negativeZeros == (third == 0 ? 0 : 1))
    }
  }

  /// Stacks of experts and matrices stored by columns among others.
  @Test(arguments: ["gpt2", "gpt_oss", "mixtral", "qwen3_moe-fused", "bert", "vit"])
  func familiesArePackedAndRestored(family: String) throws {
    let bench = try Workbench(family: FamilyCheckpoint(family), samples: 6, length: 24)
    let dense = try bench.run(
      "stages: [{warmStart: {method: magnitude, sparsity: 0.7}}, {emit: {format: both}}]")
    #expect(try !compactNames(dense + "-compact").isEmpty)
    let packed = bench.folder.path + "/packed"
    try repack(dense, to: packed, .pack(describing: false))
    #expect(try files(packed) == files(dense + "-compact"))
    try repack(packed, to: bench.folder.path + "/unpacked", .unpack)
    #expect(try files(bench.folder.path + "/unpacked") == files(dense))
    #expect(try Verification(folder: packed, on: device).findings.isEmpty)
  }

  /// A compact checkpoint is pruned again like its dense form: the same hidden states, factors, masks, weights and perplexities, mapped
  /// and read, and the same folders at the end.
  @Test(arguments: [DType.f32, .bf16], ReadMode.allCases)
  func aCompactCheckpointIsPrunedLikeItsDenseForm(dtype: DType, reading: ReadMode) throws {
    var checkpoint = TinyCheckpoint()
    (checkpoint.hidden, checkpoint.inner, checkpoint.dtype) = (64, 96, dtype)
    let bench = try Workbench(checkpoint)
    _ = try bench.run(
      "stages: [{warmStart: {method: magnitude, sparsity: 0.5}}, {emit: {format: both}}]", output: "first")
    let recipe = bench.recipe(
      "warmStart: {sparsity: 0.7}", "swap", "reconstruct",
      last: "  - evaluate: {text: \"\(bench.corpus)\", length: 32, windows: 4, dense: true}")
    func prune(_ model: String, _ output: String) throws -> String {
      let model = try Model(folder: bench.folder.path + "/" + model, reading: reading)
      let path = bench.folder.path + "/" + output
      let job = try Job(
        recipe: Recipe(text: recipe, source: "recipe.yaml", overrides: [], registry: .builtIn),
        checkpoint: model.checkpoint, model: model.outline, output: path, work: path + ".work",
        memory: 1 << 30, device: device, arithmetic: device.arithmetic)
      let plan = try Planner.plan(job)
      #expect(plan.outputs[0].bytes > 0)
      try Runner(job) { _ in }.run()
      return path
    }
    let dense = try prune("first", "dense")
    let compact = try prune("first-compact", "compact")
    for shard in try Checkpoint(folder: dense).shards {
      #expect(try Folder.read(dense + "/" + shard) == Folder.read(compact + "/" + shard))
    }
    #expect(try Verification(folder: compact, on: device).findings.isEmpty)
    // All that was computed on the way, unit by unit, though the keys differ.
    func digests(_ output: String) throws -> [String: [String]] {
      let store = try ArtifactStore(existing: output + ".work")
      return Dictionary(
        grouping: try store.manifests().filter {
          ["factor", "warmStart", "swap", "reconstruct"].contains($0.components["stage"]?.string)
        }.flatMap { manifest in
          manifest.objects.map {
            (
              "\(manifest.components["stage"]?.string ?? "") \(manifest.components["place"]?.string ?? "") \($0.path)",
              $0.digest.hex
            )
          }
        }, by: \.0
      ).mapValues { $0.map(\.1).sorted() }
    }
    #expect(try digests(dense) == digests(compact) && digests(dense).count > 40)
    let (ours, theirs) = (try RunReport(work: dense + ".work"), try RunReport(work: compact + ".work"))
    #expect(ours.json["perplexities"] == theirs.json["perplexities"])
    #expect(ours.json["perplexities"]?["pruned"]?.double ?? 0 > 1)
  }

  @Test func theSameZerosAreCounted() throws {
    var checkpoint = TinyCheckpoint()
    (checkpoint.hidden, checkpoint.inner) = (64, 96)
    let bench = try Workbench(checkpoint)
    let dense = try bench.run(
      "stages: [{warmStart: {method: magnitude, keep: 2, of: 4}}, {emit: {format: both}}]")
    let (first, second) = (try Model(folder: dense), try Model(folder: dense + "-compact"))
    for matrix in first.outline.matrices {
      let one = ZeroCensus(try LinearWeight(first.checkpoint.stored(matrix)), on: device)
      let other = ZeroCensus(try LinearWeight(second.checkpoint.stored(matrix)), on: device)
      #expect(one.zeros == other.zeros && one.pattern == "2:4" && other.pattern == "2:4")
    }
  }

  @Test func whatCannotBeRepackedIsRefused() throws {
    let bench = try Workbench()
    let (out, dense) = (bench.folder.path + "/out", bench.model)
    func failure(_ source: String, _ output: String, _ direction: Repacking.Direction) -> String {
      let (text, code) = bench.failure { try repack(source, to: output, direction) }
      #expect(code == 64 || code == 65 || code == 66)
      return text
    }
    #expect(failure(dense, out, .unpack).contains("there is nothing to unpack"))
    #expect(failure(dense, out, .pack(describing: false)).contains("too few weights are zero"))
    #expect(failure(dense, dense + "/deep", .pack(describing: false)).contains("outside of it"))
    #expect(failure(bench.folder.path + "/none", out, .unpack).contains("no such folder"))
    try Folder.create(out)
    try bench.write("mine", to: out + "/notes.txt")
    #expect(failure(dense, out, .pack(describing: false)).contains("the output exists"))
    #expect(try Folder.names(in: bench.folder.path) == ["corpus.txt", "model", "out"])
    // A damaged folder must not become one whose record says that all is well.
    let pruned = try bench.run(
      "stages: [{warmStart: {method: magnitude, sparsity: 0.9}}, emit]", output: "pruned")
    try bench.write("{} ", to: pruned + "/generation_config.json")
    #expect(
      failure(pruned, bench.folder.path + "/p", .pack(describing: false)).contains("Nothing was written"))
    #expect(try !Folder.names(in: bench.folder.path).contains { $0.hasPrefix("p.") || $0 == "p" })
  }

  /// Stopped at every call of progress: there is no folder, and no partial one.
  @Test func aStopLeavesNothing() throws {
    struct Stop: Error {}
    var checkpoint = TinyCheckpoint()
    (checkpoint.hidden, checkpoint.inner) = (64, 96)
    let bench = try Workbench(checkpoint)
    let dense = try bench.run("stages: [{warmStart: {method: magnitude, sparsity: 0.5}}, emit]")
    var calls = 0
    _ = try Repacking(dense, to: bench.folder.path + "/whole", .pack(describing: false)) { _, _ in calls += 1
    }
    let before = try Folder.names(in: bench.folder.path)
    for stop in 0..<calls {
      var count = 0
      #expect(throws: Stop.self) {
        _ = try Repacking(dense, to: bench.folder.path + "/cut", .pack(describing: false)) { _, _ in
          if count == stop { throw Stop() }
          count += 1
        }
      }
      #expect(try Folder.names(in: bench.folder.path) == before)
    }
    #expect(calls > 20)
  }
}
