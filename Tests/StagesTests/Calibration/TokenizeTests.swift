import EspalierCore
import EspalierIO
import EspalierTestSupport
import EspalierTokenizers
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

  /// Blank lines are no texts, but count where a line is named.
  @Test func blankLinesAreNoTexts() throws {
    let bench = try Workbench()
    let lines = ["{\"text\": \"abcdefghij\"}", "{\"text\": \"ABCDEFGHIJ\"}", "{\"text\": \"0123456789\"}"]
    func windows(_ text: String, _ draw: String) throws -> [[Int32]] {
      let path = bench.folder.path + "/corpus.json"
      try bench.write(text, to: path)
      return try drawn(bench, "{corpus: \"\(path)\", samples: 6, length: 5, draw: \(draw)}")
    }
    for draw in ["consecutive", "random"] {
      let expected = try windows(lines.joined(separator: "\n"), draw)
      #expect(try windows("\n \t\n" + lines.joined(separator: "\r\n\n \n") + "\n\n", draw) == expected)
    }
    let (message, code) = bench.failure {
      _ = try windows("\n\n\(lines[0])\n  \n{\"text\": 3}\n", "consecutive")
    }
    #expect(
      message.contains("corpus.json:5: the line is no JSON object with a \"text\"") && code == 65,
      "\(message)")
  }

  /// The name says how the bytes are read, so that an artifact of another name with the same bytes is another one.
  @Test func theKindOfATextIsInItsKey() throws {
    let bench = try Workbench()
    let bytes = (UInt64(0)..<40).map {
      "{\"text\": \(JSON.string(TinyCheckpoint.text(60, seed: $0)).text)}\n"
    }
    .joined()
    var digests: Set<String> = []
    for name in ["corpus.txt", "corpus.jsonl", "copy.json"] {
      try bench.write(bytes, to: bench.folder.path + "/" + name)
      let chain =
        "stages: [{tokenize: {corpus: \"\(bench.folder.path)/\(name)\", samples: 3, length: 20}}, capture, factor, {warmStart: {sparsity: 0.5}}, emit]"
      try bench.run(chain, output: "out-\(name)")
      digests.insert(try SHA256.digest(ofFile: "\(bench.folder.path)/out-\(name)/model.safetensors").hex)
      #expect(try bench.computedUnits(chain, output: "out-\(name)").isEmpty)
    }
    #expect(digests.count == 2)
  }

  /// Texts that are drawn, and only these, are turned into tokens; the draws are the published ones.
  @Test func drawnTextsAreThoseOfTheWholeCorpus() throws {
    let bench = try Workbench()
    var random = SeededRandom(seed: 4)
    let texts = (0..<300).map { _ in
      TinyCheckpoint.text(Int.random(in: 1...60, using: &random), seed: random.next())
    }
    let path = bench.folder.path + "/corpus.jsonl"
    try bench.write(texts.map { "{\"text\": \(JSON.string($0).text)}\n" }.joined(), to: path)
    let windows = try drawn(bench, "{corpus: \"\(path)\", samples: 40, length: 24, seed: 3}")
    // Every byte is a token, after the one that starts a text.
    let tokens = texts.map {
      try? Tokenizer(folder: bench.model).encode(Array($0.utf8), addSpecialTokens: true)
    }
    var python = PythonRandom(seed: 3)
    var expected: [[Int32]] = []
    while expected.count < 40 {
      let text = try #require(tokens[python.integer(below: 300)])
      guard text.count > 24 else { continue }
      let start = python.integer(below: text.count - 24)
      expected.append(Array(text[start..<start + 24]))
    }
    #expect(windows == expected)
    let short = bench.failure { _ = try drawn(bench, "{corpus: \"\(path)\", samples: 4, length: 64}") }
    #expect(short.exitCode == 65 && short.text.contains("no text has more than 64 tokens"), "\(short.text)")
    // Many texts of one window each.
    #expect(try drawn(bench, "{corpus: \"\(path)\", samples: 90, length: 24, draw: consecutive}").count == 90)
  }

  @Test(arguments: ["txt", "jsonl"], Packing.allCases) func packedTextsAreUnpacked(
    kind: String, packing: Packing
  ) throws {
    let bench = try Workbench()
    let text =
      kind == "txt"
      ? TinyCheckpoint.text(5000) : "{\"text\": \(JSON.string(TinyCheckpoint.text(5000)).text)}\n"
    let path = bench.folder.path + "/packed." + kind
    try bench.write(text, to: path)
    let recipe = { (path: String) in "{corpus: \"\(path)\", samples: 9, length: 20}" }
    let expected = try drawn(bench, recipe(path))
    try Folder.writeAtomically(packed(Array(text.utf8), packing), to: path + packing.rawValue)
    #expect(try drawn(bench, recipe(path + packing.rawValue)) == expected)
    // Nothing of it stays in the work folder.
    for work in try Folder.names(in: bench.folder.path) where work.hasPrefix("work-") {
      let store = try ArtifactStore(existing: bench.folder.path + "/" + work)
      let objects = try store.manifests().flatMap(\.objects).map(\.path)
      #expect(!objects.isEmpty && !objects.contains { $0.contains("unpacked") })
    }
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

  // MARK: - Several corpora

  /// The windows of a mix are those that each part gives alone, in turn.
  @Test(arguments: ["random", "consecutive"]) func partsOfAMixAreDrawnAsIfAlone(draw: String) throws {
    let bench = try Workbench()
    let other = bench.folder.path + "/other.jsonl"
    try bench.write(
      (UInt64(0)..<30).map { "{\"text\": \(JSON.string(TinyCheckpoint.text(90, seed: $0)).text)}\n" }
        .joined(),
      to: other)
    let rest = "length: 20, seed: 5, draw: \(draw)"
    let mixed = try drawn(
      bench, "{corpus: [{file: \"\(bench.corpus)\", weight: 3}, \"\(other)\"], samples: 8, \(rest)}")
    let first = try drawn(bench, "{corpus: \"\(bench.corpus)\", samples: 6, \(rest)}")
    let second = try drawn(bench, "{corpus: \"\(other)\", samples: 2, \(rest)}")
    #expect(mixed == [first[0], first[1], second[0], first[2], first[3], first[4], second[1], first[5]])
  }

  /// A folder is one corpus: its texts are drawn as if they were lines of one file.
  @Test(arguments: ["txt", "jsonl"]) func theFilesOfAFolderAreOneCorpus(kind: String) throws {
    let bench = try Workbench()
    let place = bench.folder.path + "/texts"
    try Folder.create(place)
    let texts = (UInt64(0)..<24).map { TinyCheckpoint.text(20 + 9 * Int($0 % 5), seed: $0) }
    let lines = texts.map { "{\"text\": \(JSON.string($0).text)}\n" }
    if kind == "txt" {
      for (index, text) in texts.enumerated() {
        let name = String(index + 100)
        // Some are packed.
        if index % 3 == 0 {
          try Folder.writeAtomically(packed(Array(text.utf8), .gzip), to: "\(place)/\(name).txt.gz")
        } else {
          try bench.write(text, to: "\(place)/\(name).txt")
        }
      }
    } else {
      for part in 0..<4 {
        try bench.write(lines[part * 6..<part * 6 + 6].joined(), to: "\(place)/\(part).jsonl")
      }
    }
    let whole = bench.folder.path + "/whole.jsonl"
    try bench.write(lines.joined(), to: whole)
    for draw in ["random", "consecutive"] {
      let rest = "samples: 12, length: 24, seed: 2, draw: \(draw)"
      let expected = try drawn(bench, "{corpus: \"\(whole)\", \(rest)}")
      #expect(try drawn(bench, "{corpus: \"\(place)\", \(rest)}") == expected)
      #expect(try drawn(bench, "{corpus: \"\(place)/*.\(kind)*\", \(rest)}") == expected)
    }
  }

  @Test func tokensAndTextsMayBeMembersOfAList() throws {
    let bench = try Workbench()
    let path = bench.folder.path + "/tokens.safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("input_ids", .i64, [2, 6])])
    try writer.append((0..<12).map { Int64($0) })
    try writer.finish()
    let windows = try drawn(
      bench, "{corpus: [\"\(path)\", \"\(bench.corpus)\"], samples: 4, length: 5, draw: consecutive}")
    #expect(windows[0] == [0, 1, 2, 3, 4] && windows[2] == [6, 7, 8, 9, 10])
    let few = bench.failure {
      _ = try drawn(bench, "{corpus: [\"\(path)\", \"\(bench.corpus)\"], samples: 6, length: 5}")
    }
    #expect(
      few.text.contains("2 rows of 6 tokens, but 3 of 5 are wanted") && few.exitCode == 65, "\(few.text)")
    let mixed = bench.failure {
      _ = try drawn(bench, "{corpus: \"\(bench.folder.path)\", samples: 4, length: 5}")
    }
    #expect(mixed.text.contains("texts and tokens") && mixed.exitCode == 64, "\(mixed.text)")
  }

  /// Another weight is another calibration; another path is not.
  @Test func theMixIsInTheKey() throws {
    let bench = try Workbench()
    let other = bench.folder.path + "/other.txt"
    try bench.write(TinyCheckpoint.text(3000, seed: 7), to: other)
    func units(_ corpus: String) throws -> [String] {
      try bench.computedUnits(
        "stages: [{tokenize: {corpus: \(corpus), samples: 4, length: 20}}, capture, factor, {warmStart: {sparsity: 0.5}}, emit]",
        output: "out-\(SHA256.digest(of: corpus).short)"
      ).filter { $0.hasPrefix("tokenize") }
    }
    #expect(try units("[\"\(bench.corpus)\", \"\(other)\"]").count == 1)
    let copy = bench.folder.path + "/copy.txt"
    try bench.write(TinyCheckpoint.text(3000, seed: 7), to: copy)
    #expect(try units("[\"\(bench.corpus)\", \"\(copy)\"]").isEmpty)
    #expect(try units("[\"\(other)\", \"\(bench.corpus)\"]").count == 1)
    #expect(try units("[{file: \"\(bench.corpus)\", weight: 3}, \"\(other)\"]").count == 1)
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
