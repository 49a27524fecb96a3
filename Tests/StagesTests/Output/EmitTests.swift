import EspalierCore
import EspalierIO
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Foundation
import Testing

/// The pruned checkpoint, byte by byte.
@Suite struct EmitTests {
  private let recipe = "stages: [{warmStart: {method: magnitude, keep: 2, of: 4}}, emit]"

  /// Matrices of several pieces, shards that are links as in the cache of Hugging Face, files in folders.
  @Test func everyByteIsAsExpected() throws {
    var checkpoint = TinyCheckpoint()
    (checkpoint.hidden, checkpoint.inner, checkpoint.blocks) = (1056, 8, 1)
    (checkpoint.keyHeads, checkpoint.vocabulary, checkpoint.shards) = (1, 260, 3)
    let bench = try Workbench(checkpoint)
    let blobs = bench.folder.path + "/blobs"
    try Folder.create(blobs)
    for name in ["model-1.safetensors", "model-2.safetensors", "tokenizer.json"] {
      try Folder.move(bench.model + "/" + name, to: blobs + "/" + name)
      try link(bench.model + "/" + name, to: "../blobs/" + name)
    }
    try Folder.create(bench.model + "/original/deep")
    try Folder.create(bench.model + "/.git")
    for name in [".gitattributes", "original/params.json", "original/deep/empty", ".git/HEAD"] {
      try bench.write(name.hasSuffix("empty") ? "" : name, to: bench.model + "/" + name)
    }
    try link(bench.model + "/original/tokenizer.model", to: "../../blobs/tokenizer.json")

    let job = try bench.job(recipe)
    let output = try bench.run(recipe)
    let others = [
      ".gitattributes", "config.json", "generation_config.json", "model.safetensors.index.json",
      "original/deep/empty", "original/params.json", "original/tokenizer.model", "tokenizer.json",
    ]
    let own = ["MODEL_CARD.md", "espalier.json", "recipe.yaml"]
    #expect(try Set(Checkpoint(folder: output).fileNames()) == Set(others + own + job.checkpoint.shards))
    for name in others {
      #expect(try Folder.read(output + "/" + name) == Folder.read(bench.model + "/" + name), "\(name)")
      #expect(try !Folder.isLink(output + "/" + name))
    }
    var matrices = 0
    for shard in job.checkpoint.shards {
      var expected = try Folder.read(bench.model + "/" + shard)
      for entry in job.checkpoint.headers[shard]?.tensors ?? [] where entry.name.contains("_proj.") {
        matrices += 1
        prune(&expected, entry.range)
      }
      #expect(try Folder.read(output + "/" + shard) == expected, "\(shard)")
    }
    #expect(matrices == 7)
    #expect(try Verification(folder: output, on: device).findings.isEmpty)
    try bench.write("x", to: output + "/original/params.json")
    #expect(
      try Verification(folder: output, on: device).findings.map(\.subject) == [
        output + "/original/params.json"
      ])
  }

  /// Before any work: an hour later nobody is there to hear it.
  @Test func whatCannotBeCopiedIsRefused() throws {
    let bench = try Workbench()
    try Folder.create(bench.model + "/original")
    let path = bench.model + "/original/it"
    let cases: [(String, () throws -> Void)] = [
      ("a link to a folder", { try link(path, to: "..") }),
      ("a broken link", { try link(path, to: "nothing") }),
      ("a pipe or a device", { #expect(mkfifo(path, 0o600) == 0) }),
      ("a pipe or a device", { try link(path, to: "/dev/zero") }),
    ]
    for (text, make) in cases {
      try make()
      let (message, code) = bench.failure { _ = try Planner.plan(try bench.job(recipe)) }
      #expect(message.contains(text) && message.contains(path) && code == 65, "\(message)")
      try Folder.remove(path)
    }
    _ = try Planner.plan(try bench.job(recipe))
  }

  @Test func nothingIsWrittenIntoTheModelsFolder() throws {
    let bench = try Workbench()
    try link(bench.folder.path + "/alias", to: "model")
    for (output, work) in [
      ("model/pruned", "work"), ("out", "model/work"), ("alias/deep/er", "work"), ("model", "work"),
    ] {
      let job = try bench.job(recipe, output: output, work: work)
      let (message, code) = bench.failure { _ = try Planner.plan(job) }
      #expect(message.contains("outside of it") && code == 64, "\(message)")
    }
    // A name that only begins in the same way.
    _ = try Planner.plan(try bench.job(recipe, output: "model2", work: "model.work"))
  }

  /// The output would be there before it is written.
  @Test func theWorkFolderIsNotInTheOutput() throws {
    let bench = try Workbench()
    try Folder.create(bench.folder.path + "/there")
    try link(bench.folder.path + "/alias", to: "there")
    for (output, work) in [
      ("out", "out"), ("out", "out/work"), ("out/", "./out"), ("there/out", "alias/out/a/b"),
      ("there", "alias/work"),
    ] {
      let job = try bench.job(recipe, output: output, work: work)
      let (message, code) = bench.failure { _ = try Planner.plan(job) }
      #expect(message.contains("lies in the output folder") && code == 64, "\(output) \(work) \(message)")
    }
    #expect(try Folder.names(in: bench.folder.path) == ["alias", "corpus.txt", "model", "there"])
    try Runner(bench.job(recipe, output: "work/out", work: "work")) { _ in }.run()
    #expect(try Verification(folder: bench.folder.path + "/work/out", on: device).findings.isEmpty)
  }

  private func link(_ path: String, to target: String) throws {
    try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: target)
  }

  /// Sets the smaller two of every four f32 to zero.
  private func prune(_ bytes: inout [UInt8], _ range: Range<Int>) {
    bytes.withUnsafeMutableBytes { bytes in
      let values = UnsafeMutableRawBufferPointer(rebasing: bytes[range]).assumingMemoryBound(to: Float.self)
      for start in stride(from: 0, to: values.count, by: 4) {
        let order = (start..<start + 4).sorted { values[$0].magnitude < values[$1].magnitude }
        values[order[0]] = 0
        values[order[1]] = 0
      }
    }
  }
}
