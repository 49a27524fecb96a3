import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierIO

@Suite struct CheckpointTests {
  private let temporary: TemporaryFolder
  private var folder: String { temporary.path + "/model" }

  init() throws { temporary = try TemporaryFolder() }

  private func write(_ shards: Int = 1, _ change: (inout TinyCheckpoint) -> Void = { _ in }) throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.shards = shards
    change(&checkpoint)
    try checkpoint.write(to: folder)
  }

  private func put(_ text: String, _ name: String) throws {
    try File(writing: folder + "/" + name, truncate: true).write(Array(text.utf8), at: 0)
  }

  private func failure() throws -> String {
    do {
      _ = try Checkpoint(folder: folder)
      return "no error"
    } catch let error as EspalierError {
      return "\(error.code.name): " + error.description.replacing(folder, with: "DIR")
    }
  }

  @Test(arguments: [1, 3]) func tensorsAreFoundInTheirShards(shards: Int) throws {
    try write(shards)
    let checkpoint = try Checkpoint(folder: folder)
    let expected = TinyCheckpoint().tensors
    #expect(
      checkpoint.shards
        == (shards == 1 ? ["model.safetensors"] : (1...shards).map { "model-\($0).safetensors" }))
    #expect(Set(checkpoint.tensors.keys) == Set(expected.map(\.name)))
    for (name, shape) in expected {
      let tensor = try checkpoint.tensor(name, shape: shape).dense()
      #expect(tensor.dtype == .f32 && tensor.withBytes { $0.count } == shape.reduce(4, *))
      let shard = try #require(checkpoint.tensors[name]).shard
      #expect(checkpoint.headers[shard]?.tensors.contains { $0.name == name } == true)
    }
    #expect(checkpoint.headers.values.reduce(0) { $0 + $1.tensors.count } == expected.count)
    #expect(checkpoint.configuration["model_type"]?.string == "llama")
    let others = ["config.json", "generation_config.json"] + checkpoint.shards
    #expect(
      try checkpoint.fileNames()
        == (others + (shards == 1 ? [] : ["model.safetensors.index.json"]) + ["tokenizer.json"]).sorted())
  }

  /// The same tensors, regardless of their layout in files.
  @Test func shardingDoesNotMatter() throws {
    try write(1)
    let one = try Checkpoint(folder: folder)
    let digests = try one.tensors.mapValues { try $0.dense().digest() }
    try Folder.remove(folder)
    try write(4)
    let four = try Checkpoint(folder: folder)
    #expect(try four.tensors.mapValues { try $0.dense().digest() } == digests)
  }

  @Test func aSingleFileWinsOverAnIndex() throws {
    try write(2)
    try put(#"{"weight_map":{"x":"gone.safetensors"}}"#, "model.safetensors.index.json")
    var writer = try SafetensorsWriter(path: folder + "/model.safetensors", tensors: [("a", .f32, [1])])
    try writer.append([1] as [Float])
    try writer.finish()
    #expect(try Checkpoint(folder: folder).tensors.keys.sorted() == ["a"])
  }

  @Test func foldersThatAreNoCheckpointsAreTold() throws {
    let start = "DIR: "
    #expect(
      try failure()
        == "missing input: \(start)there is no such folder; give the folder of a checkpoint (config.json, *.safetensors, tokenizer.json)."
    )
    try Folder.create(folder)
    #expect(
      try failure()
        == "bad input: \(start)the folder is empty; give the folder of a checkpoint.")
    try put("", "notes.txt")
    #expect(
      try failure().hasPrefix("bad input: \(start)config.json is missing; a checkpoint is a folder with"))
    try put("{\"a\": nan}", "config.json")
    #expect(
      try failure()
        == "bad input: DIR/config.json: a value is expected (line 1, column 8). The file is not valid JSON.")
    try put("{}", "config.json")
    #expect(try failure().hasPrefix("bad input: \(start)model.safetensors is missing; a checkpoint is"))
    try put("", "model.safetensors")
    #expect(try failure().hasPrefix("bad input: DIR/model.safetensors: the file has 0 bytes"))
    try Folder.remove(folder)
    try File(writing: folder).write([1], at: 0)
    #expect(try failure().hasPrefix("bad input: \(start)this is no folder"))
  }

  private static let damaged = "bad input: DIR/model.safetensors.index.json: "

  @Test(arguments: [
    ("", damaged + "the text ends where a value is expected (line 1, column 1). The file is not valid JSON."),
    ("[]", damaged + "weight_map is missing or empty."), ("{}", damaged + "weight_map is missing or empty."),
    (#"{"weight_map":{}}"#, damaged + "weight_map is missing or empty."),
    (#"{"weight_map":["a"]}"#, damaged + "weight_map is missing or empty."),
    (#"{"weight_map":{"a":1}}"#, damaged + "weight_map names a shard for a that is not a plain file name."),
    (#"{"weight_map":{"a":""}}"#, damaged + "weight_map names a shard for a that is not a plain file name."),
    (
      #"{"weight_map":{"a":"../model-1.safetensors"}}"#,
      damaged + "weight_map names a shard for a that is not a plain file name."
    ),
    (
      #"{"weight_map":{"a":"/etc/passwd"}}"#,
      damaged + "weight_map names a shard for a that is not a plain file name."
    ),
    (
      #"{"weight_map":{"a":"x/../y"}}"#,
      damaged + "weight_map names a shard for a that is not a plain file name."
    ),
    (
      #"{"weight_map":{"a":".."}}"#, damaged + "weight_map names a shard for a that is not a plain file name."
    ),
    (
      #"{"weight_map":{"a":".hidden"}}"#,
      damaged + "weight_map names a shard for a that is not a plain file name."
    ),
    (
      #"{"weight_map":{"a":"model-1.safetensors\u0000"}}"#,
      damaged + "weight_map names a shard for a that is not a plain file name."
    ),
    (
      #"{"weight_map":{"lm_head.weight":"model-9.safetensors"}}"#,
      "bad input: DIR: the shard model-9.safetensors is missing, but model.safetensors.index.json names it. Fetch it again."
    ),
    (
      #"{"weight_map":{"lm_head.weight":"model-2.safetensors"}}"#,
      "bad input: DIR: the tensor lm_head.weight is not in model-2.safetensors, although model.safetensors.index.json says so."
    ),
    (
      #"{"weight_map":{"none":"model-1.safetensors"}}"#,
      "bad input: DIR: the tensor none is not in model-1.safetensors, although model.safetensors.index.json says so."
    ),
    (
      #"{"weight_map":{"a":"model-1.safetensors","a":"model-1.safetensors"}}"#,
      damaged + "the key \"a\" occurs twice (line 1, column 42). The file is not valid JSON."
    ),
    (#"{"weight_map":{"lm_head.weight":"config.json"}}"#, "bad input: DIR/config.json: the header claims"),
    (#"{"weight_map":{"lm_head.weight":"model-1.safetensors"}}"#, "no error"),
  ])
  func wrongIndicesAreTold(index: String, expected: String) throws {
    try write(2)
    try put(index, "model.safetensors.index.json")
    #expect(try failure().hasPrefix(expected))
  }

  /// Only listed tensors are the model's; all of them can be copied.
  @Test func tensorsThatTheIndexLeavesOutAreKeptApart() throws {
    try write(2)
    try put(#"{"weight_map":{"lm_head.weight":"model-1.safetensors"}}"#, "model.safetensors.index.json")
    let checkpoint = try Checkpoint(folder: folder)
    #expect(checkpoint.tensors.keys.sorted() == ["lm_head.weight"])
    #expect(
      checkpoint.shards == ["model-1.safetensors"]
        && checkpoint.headers["model-1.safetensors"]?.tensors.count ?? 0 > 1)
  }

  @Test func aFolderInPlaceOfAShardIsTold() throws {
    try write(2)
    try Folder.remove(folder + "/model-2.safetensors")
    try Folder.create(folder + "/model-2.safetensors")
    #expect(try failure().hasPrefix("bad input: DIR: the shard model-2.safetensors is missing"))
  }

  @Test func tensorsThatCannotBeUsedAreTold() throws {
    try write { $0.dtype = .f16 }
    var writer = try SafetensorsWriter(
      path: folder + "/model.safetensors", tensors: [("a", .f16, [2]), ("b", .f8e4m3, [2])])
    try writer.append([0, 1, 2, 3, 4, 5] as [UInt8])
    try writer.finish()
    let checkpoint = try Checkpoint(folder: folder)
    #expect(try checkpoint.tensor("a", shape: [2]).dtype == .f16)
    for (name, shape, expected) in [
      ("c", [2], "\(folder): the tensor c is missing, but config.json implies it with shape [2]."),
      (
        "a", [1, 2],
        "\(folder)/model.safetensors: the tensor a has shape [2], but config.json implies [1, 2]."
      ),
      (
        "b", [2],
        "\(folder)/model.safetensors: the tensor b is not F32, BF16 or F16; quantized checkpoints cannot be pruned."
      ),
    ] {
      let error = #expect(throws: EspalierError.self) { try checkpoint.tensor(name, shape: shape) }
      #expect(error?.code == .badInput && error?.description == expected)
    }
  }
}
