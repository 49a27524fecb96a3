import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierStages

@Suite struct TokenizeTests {
  /// `random.seed(0); [random.getrandbits(32) for _ in range(4)]`, and randint draws for several seeds, by CPython 3.11.
  @Test func drawsAreThoseOfCPython() {
    var random = PythonRandom(seed: 0)
    #expect(
      (0..<4).map { _ in random.next() } == [3_626_764_237, 1_654_615_998, 3_255_389_356, 3_823_568_514])
    let expected: [(seed: UInt32, below: Int, values: [Int])] = PythonDraws.golden
    for (seed, below, values) in expected {
      var random = PythonRandom(seed: seed)
      #expect(values.map { _ in random.integer(below: below) } == values)
    }
  }

  @Test func consecutiveWindowsFollowTheText() throws {
    let bench = try Workbench(text: "abcdefghijklmnopqrstuvwxyz0123456789")
    let windows = try drawn(bench, "{corpus: \"\(bench.corpus)\", samples: 3, length: 5, draw: consecutive}")
    #expect(windows[0][0] == 0, "the tokenizer's own start token comes first, once")
    #expect(zip(windows.joined().dropFirst(), windows.joined().dropFirst(2)).allSatisfy { $1 == $0 + 1 })
    let plain = try drawn(
      bench, "{corpus: \"\(bench.corpus)\", samples: 3, length: 5, draw: consecutive, specialTokens: false}")
    #expect(plain.joined().elementsEqual(windows.joined().dropFirst() + [plain[2][4]]))
  }

  @Test func randomWindowsAreTheSameForTheSameSeed() throws {
    let bench = try Workbench()
    let recipe = { (seed: Int) in "{corpus: \"\(bench.corpus)\", samples: 9, length: 20, seed: \(seed)}" }
    let (first, again, other) = (
      try drawn(bench, recipe(1)), try drawn(bench, recipe(1)), try drawn(bench, recipe(2))
    )
    #expect(first == again && first != other)
    #expect(first.count == 9 && first.allSatisfy { $0.count == 20 })
  }

  @Test func linesOfJSONAreTextsOfTheirOwn() throws {
    let bench = try Workbench()
    let path = bench.folder.path + "/corpus.jsonl"
    try bench.write(
      "{\"text\": \"abcdefghij\"}\n{\"text\": \"x\", \"other\": 1}\n{\"text\": \"ABCDEFGHIJ\"}\n", to: path)
    let windows = try drawn(bench, "{corpus: \"\(path)\", samples: 4, length: 5, draw: consecutive}")
    #expect(windows[0][0] == 0 && windows[2][0] == 0 && windows[0] != windows[2])
    try bench.write("{\"text\": \"abcdefghij\"}\n{\"txt\": \"x\"}\n", to: path)
    let (message, code) = bench.failure {
      _ = try drawn(bench, "{corpus: \"\(path)\", samples: 4, length: 5}")
    }
    #expect(message.contains("corpus.jsonl:2") && code == 65)
  }

  @Test func tokensMayComeFromAFile() throws {
    let bench = try Workbench()
    let path = bench.folder.path + "/tokens.safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("input_ids", .i64, [2, 6])])
    try writer.append((0..<12).map { Int64($0) })
    try writer.finish()
    #expect(
      try drawn(bench, "{corpus: \"\(path)\", samples: 2, length: 5}") == [
        [0, 1, 2, 3, 4], [6, 7, 8, 9, 10],
      ])
    let tooMany = bench.failure { _ = try drawn(bench, "{corpus: \"\(path)\", samples: 3, length: 5}") }
    #expect(tooMany.text.contains("2 rows of 6 tokens") && tooMany.exitCode == 65)
    var wrong = try SafetensorsWriter(path: path, tensors: [("input_ids", .i32, [1, 3])])
    try wrong.append([1, 999, 2] as [Int32])
    try wrong.finish()
    let outside = bench.failure { _ = try drawn(bench, "{corpus: \"\(path)\", samples: 1, length: 3}") }
    #expect(outside.text.contains("999 is outside of the model's vocabulary") && outside.exitCode == 65)
  }

  private func drawn(_ bench: Workbench, _ parameters: String) throws -> [[Int32]] {
    let work = "work-\(SHA256.digest(of: parameters).short)"
    try Folder.remove(bench.folder.path + "/" + work)
    try Folder.remove(bench.folder.path + "/out-t")
    try bench.run(
      "stages: [{tokenize: \(parameters)}, capture, factor, {warmStart: {sparsity: 0.5}}, emit]",
      output: "out-t", work: work)
    let store = try ArtifactStore(existing: bench.folder.path + "/" + work)
    let manifest = try #require(
      try store.manifests().first { $0.objects.contains { $0.path == Tokenize.object } })
    return try TokenFile.read(store.path(manifest.key, Tokenize.object))
  }
}
