import EspalierCore
import EspalierIO
import EspalierModels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Glibc
import Testing

@Suite struct EvaluationTests {
  /// Window perplexity as transformers computes it in float32; see docs/results.md for the command.
  @Test(
    .enabled(if: Places.exists(Places.shared), "needs ../shared"),
    arguments: [("tinystories-656K", 37.0825), ("stories260K", 4.0677)])
  func perplexityIsThatOfTheReference(name: String, expected: Double) throws {
    let folder = try TemporaryFolder()
    let text = String(
      decoding: try Folder.read("\(Places.shared)/data/text/tinystories/tinystories_val.txt"), as: UTF8.self)
    let path = folder.path + "/text.txt"
    try Folder.writeAtomically(
      Array(String(String.UnicodeScalarView(text.unicodeScalars.prefix(300_000))).utf8), to: path)
    let model = try Model(folder: "\(Places.shared)/data/models/\(name)")
    let result = try windowPerplexity(
      model, text: path, length: 512, windows: 40, scratch: folder.path + "/scratch", on: device)
    #expect(abs(result.perplexity - expected) < 0.00006)
    #expect(result.windows == 40 && result.tokens == 20480)
  }

  @Test func perplexityIsTheDefinition() throws {
    let bench = try Workbench()
    let model = try Model(folder: bench.model)
    let result = try windowPerplexity(
      model, text: bench.corpus, length: 30, windows: 7, scratch: bench.folder.path + "/scratch", on: device)
    // Every byte is one token after a start token.
    let logProbabilities = try (0..<7).map { window -> Double in
      let ids = try ids(bench, window * 30..<(window + 1) * 30)
      return try self.logProbabilities(model, ids).reduce(0, +) / 29
    }
    #expect(abs(result.perplexity - exp(-logProbabilities.reduce(0, +) / 7)) < 1e-4 * result.perplexity)
    #expect(try Folder.entry(bench.folder.path + "/scratch") == nil)
  }

  @Test func questionsAreAnsweredByTheSummedLogProbability() throws {
    let bench = try Workbench()
    let model = try Model(folder: bench.model)
    var random = SeededRandom(seed: 5)
    let words = ["cat", "mat", "birds", "it ran away", "a", "two"]
    var lines: [String] = []
    var right = 0
    var rightNormalized = 0
    for _ in 0..<25 {
      let query =
        "the " + (words.randomElement(using: &random) ?? "") + (Bool.random(using: &random) ? "  " : "")
      let choices = Array(words.shuffled(using: &random).prefix(3))
      let gold = Int.random(in: 0..<3, using: &random)
      lines.append(
        (["query": .string(query), "choices": .array(choices.map(JSON.string)), "gold": .integer(gold)]
          as JSON).text)
      let sums = try choices.map { choice -> Double in
        let context = query.reversed().drop { $0 == " " }.count
        let all = Array((query + " " + choice).utf8)
        return try logProbabilities(model, [0] + all.map(id)).suffix(all.count - context).reduce(
          0, +)
      }
      right += sums.indices.max { sums[$0] < sums[$1] } == gold ? 1 : 0
      let normalized = zip(sums, choices).map { $0 / Double($1.count) }
      rightNormalized += normalized.indices.max { normalized[$0] < normalized[$1] } == gold ? 1 : 0
    }
    let path = bench.folder.path + "/questions.jsonl"
    try bench.write(lines.joined(separator: "\n"), to: path)
    let result = try Questions(path: path).ask(model, scratch: bench.folder.path + "/scratch", on: device)
    #expect(
      result.questions == 25 && result.accuracy == Double(right) / 25
        && result.normalizedAccuracy == Double(rightNormalized) / 25)
  }

  @Test func questionsByContext() throws {
    let bench = try Workbench()
    let path = bench.folder.path + "/questions.jsonl"
    try bench.write(
      "{\"context_options\": [\"the cat\", \"the mat\"], \"continuation\": \"ran.\", \"gold\": 1}\n\n",
      to: path)
    let result = try Questions(path: path).ask(
      try Model(folder: bench.model), scratch: bench.folder.path + "/scratch", on: device)
    #expect(result.questions == 1 && result.normalizedAccuracy == nil)
  }

  @Test func wrongQuestionsNameTheLine() throws {
    let bench = try Workbench()
    let path = bench.folder.path + "/questions.jsonl"
    for line in [
      "{}", "{\"query\": \"a\", \"choices\": [\"b\"], \"gold\": 0}",
      "{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 2}", "[",
      "{\"query\": \"a\", \"choices\": [\"b\", \"c\"]}",
    ] {
      try bench.write("{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 0}\n" + line, to: path)
      let (message, code) = bench.failure { _ = try Questions(path: path) }
      #expect(message.contains("questions.jsonl:2") && code == 65, "\(message)")
    }
  }

  @Test func theStageReportsBothModels() throws {
    let bench = try Workbench()
    try bench.run(
      bench.recipe(
        "warmStart: {sparsity: 0.5}",
        last: "  - evaluate: {text: \"\(bench.corpus)\", length: 32, windows: 5, dense: true}"))
    let report = try RunReport(work: bench.folder.path + "/work")
    let perplexities = report.json["perplexities"]
    let dense = try windowPerplexity(
      try Model(folder: bench.model), text: bench.corpus, length: 32, windows: 5,
      scratch: bench.folder.path + "/scratch", on: device)
    #expect(perplexities?["dense"]?.double == dense.perplexity)
    #expect(try #require(perplexities?["pruned"]?.double) != dense.perplexity)
    #expect(
      try ArtifactStore(existing: bench.folder.path + "/work").manifests().allSatisfy {
        !$0.objects.contains { $0.path.contains("scratch") }
      })
  }

  /// Log-probability of every token but the first, from whole logits in f64.
  private func logProbabilities(_ model: Model, _ ids: [Int32]) throws -> [Double] {
    let logits = try model.logits(ids, length: ids.count, on: device)
    return (1..<ids.count).map { index in
      let row = (0..<logits.columns).map { Double(logits[index - 1, $0]) }
      return row[Int(ids[index])] - log(row.reduce(0) { $0 + exp($1) })
    }
  }

  /// Ids of the corpus: a start token, then bytes.
  private func ids(_ bench: Workbench, _ range: Range<Int>) throws -> [Int32] {
    let all = [0] + (try Folder.read(bench.corpus)).map(id)
    return Array(all[range])
  }

  /// The id of a byte in the tiny tokenizer; only printable ones and the newline occur.
  private func id(_ byte: UInt8) -> Int32 { Int32(byte) + 1 }
}
