import EspalierCore
import EspalierIO
import EspalierKernels
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
    let report = try Evaluation(texts: [path], length: 512, windows: 40).run(
      model, scratch: folder.path + "/scratch", memory: 1 << 30, on: device)
    let result = try #require(report.pruned.perplexities.first)
    #expect(abs(result.perplexity - expected) < 0.00006)
    #expect(result.windows == 40 && result.tokens == 20480)
  }

  @Test func perplexityIsTheDefinition() throws {
    let bench = try Workbench()
    let model = try Model(folder: bench.model)
    let report = try Evaluation(texts: [bench.corpus], length: 30, windows: 7).run(
      model, scratch: bench.folder.path + "/scratch", memory: 1 << 30, on: device)
    let result = try #require(report.pruned.perplexities.first)
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
    let result = try ask(model, path, bench)
    #expect(
      result.rows == 25 && result.metrics["acc"]?.double == Double(right) / 25
        && result.metrics["acc_norm"]?.double == Double(rightNormalized) / 25)
  }

  @Test func questionsByContext() throws {
    let bench = try Workbench()
    let path = bench.folder.path + "/questions.jsonl"
    try bench.write(
      "{\"context_options\": [\"the cat\", \"the mat\"], \"continuation\": \"ran.\", \"gold\": 1}\n\n",
      to: path)
    let result = try ask(try Model(folder: bench.model), path, bench)
    #expect(result.rows == 1 && result.metrics["acc"] != nil && result.metrics["acc_norm"] == nil)
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
      let (message, code) = bench.failure {
        _ = try Evaluation(texts: [], tasks: [TaskFile(name: "questions", path: path)])
      }
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
    let own = try Evaluation(texts: [bench.corpus], length: 32, windows: 5).run(
      try Model(folder: bench.model), scratch: bench.folder.path + "/scratch", memory: 1 << 30, on: device)
    #expect(perplexities?["dense"]?.double == own.pruned.perplexities[0].perplexity)
    #expect(try #require(perplexities?["pruned"]?.double) != own.pruned.perplexities[0].perplexity)
    let comparison = try #require(report.evaluations[0].report.comparisons.first)
    #expect(comparison.predictions == 5 * 31 && comparison.divergence ?? 0 > 0)
    let ratio = try #require(perplexities?["pruned"]?.double) / own.pruned.perplexities[0].perplexity
    #expect(abs((comparison.ratio ?? 0) - ratio) < 1e-9 * ratio)
    #expect(
      try ArtifactStore(existing: bench.folder.path + "/work").manifests().allSatisfy {
        !$0.objects.contains { $0.path.contains("scratch") }
      })
  }

  @Test func divergencesAreThoseOfWholeLogits() throws {
    let bench = try Workbench()
    let output = try bench.run(bench.recipe("warmStart: {sparsity: 0.5}"))
    let dense = try Model(folder: bench.model)
    let pruned = try Model(folder: output)
    let report = try Evaluation(texts: [bench.corpus], length: 30, windows: 4).run(
      pruned, against: dense, scratch: bench.folder.path + "/scratch", memory: 1 << 30, on: device)
    var divergences: [Double] = []
    var agreements = 0
    for window in 0..<4 {
      let ids = try ids(bench, window * 30..<(window + 1) * 30)
      let (p, q) = (try softmax(dense, ids), try softmax(pruned, ids))
      for (p, q) in zip(p, q).dropLast() {
        var sum = 0.0
        for (p, q) in zip(p, q) { sum += p * log(p / q) }
        divergences.append(sum)
        let (first, second) = (p.max() ?? 0, q.max() ?? 0)
        if p.firstIndex(of: first) == q.firstIndex(of: second) { agreements += 1 }
      }
    }
    let found = try #require(report.comparisons.first)
    let mean = divergences.reduce(0, +) / Double(divergences.count)
    #expect(abs((found.divergence ?? 0) - mean) < 1e-5 * mean)
    #expect(abs((found.largestDivergence ?? 0) - (divergences.max() ?? 0)) < 1e-4 * mean)
    #expect(found.agreement == Double(agreements) / Double(divergences.count))
    let itself = try Evaluation(texts: [bench.corpus], length: 30, windows: 4).run(
      dense, against: dense, scratch: bench.folder.path + "/scratch", memory: 1 << 30, on: device)
    #expect(itself.comparisons.first?.largestDivergence ?? 1 < 1e-6)
    #expect(itself.comparisons.first?.agreement == 1 && itself.comparisons.first?.ratio == 1)
  }

  @Test func onePassGivesWhatManyGive() throws {
    let bench = try Workbench()
    let model = try Model(folder: bench.model)
    let rows = bench.folder.path + "/rows.jsonl"
    try bench.write(
      """
      {"query": "the cat", "choices": ["ran", "ran away"], "gold": 0}
      {"query": "the mat is on the", "choices": ["cat", "birds"], "gold": 1}
      """, to: rows)
    let text = bench.folder.path + "/other.txt"
    try bench.write(String(repeating: "two birds ran away. ", count: 20), to: text)
    let tasks = [TaskFile(name: "questions", path: rows)]
    func run(_ evaluation: Evaluation, memory: Int, _ device: Device) throws -> JSON {
      try evaluation.run(
        model, scratch: bench.folder.path + "/scratch", memory: memory, on: device
      ).pruned.json
    }
    let all = try Evaluation(texts: [bench.corpus, text], length: 32, windows: 5, tasks: tasks)
    let expected = try run(all, memory: 1 << 30, device)
    // Hidden states in files, and other numbers of threads, give the same bytes.
    #expect(try run(all, memory: 0, device) == expected)
    #expect(try run(all, memory: 1 << 30, Device(threads: 3)) == expected)
    let parts = try [
      Evaluation(texts: [bench.corpus], length: 32, windows: 5),
      Evaluation(texts: [text], length: 32, windows: 5), Evaluation(texts: [], tasks: tasks),
    ].map { try run($0, memory: 1 << 30, device) }
    let perplexities = parts[0...1].flatMap { $0["perplexities"]?.array ?? [] }
    #expect(expected["perplexities"] == .array(perplexities))
    #expect(expected["tasks"] == parts[2]["tasks"])
    #expect(try Folder.entry(bench.folder.path + "/scratch") == nil)
  }

  @Test func anEvaluationCanBeAddedToAFinishedOutput() throws {
    let bench = try Workbench()
    let output = try bench.run(bench.recipe("warmStart: {sparsity: 0.5}"))
    let weights = try Folder.read(output + "/model.safetensors")
    try bench.run(
      bench.recipe(
        "warmStart: {sparsity: 0.5}",
        last: "  - evaluate: {text: \"\(bench.corpus)\", length: 32, windows: 5}"))
    let report = try RunReport(work: bench.folder.path + "/work")
    #expect(report.json["perplexities"]?["pruned"]?.double != nil)
    #expect(try Folder.read(output + "/model.safetensors") == weights)
  }

  /// An encoder predicts no tokens; its outputs are compared.
  @Test(arguments: ["bert", "vit-hidden"]) func encodersAreComparedByTheirOutputs(family: String) throws {
    let bench = try Workbench(family: FamilyCheckpoint(family), samples: 6, length: 24)
    let output = try bench.run(
      bench.recipe(
        "warmStart: {sparsity: 0.5}",
        last: "  - evaluate: {text: \"\(bench.corpus)\", length: 24, dense: true}"))
    let report = try RunReport(work: bench.folder.path + "/work")
    let found = try #require(report.evaluations.first?.report.comparisons.first?.correlation)
    let outputs = try [bench.model, output].map { folder -> [Double] in
      let model = try Model(folder: folder)
      if let images = model.outline.images {
        let pixels = try SafetensorsFile(path: bench.corpus).tensor("pixel_values").floats()
        let matrix = Matrix(rows: 6, columns: images.count, pixels.array())
        return try model.outputs(pixels: matrix, on: device).array().map(Double.init)
      }
      let ids = try SafetensorsFile(path: bench.corpus).tensor("input_ids").integers()
      return try model.logits(ids, length: 24, on: device).array().map(Double.init)
    }
    let means = outputs.map { $0.reduce(0, +) / Double($0.count) }
    var sums = (0.0, 0.0, 0.0)
    for (x, y) in zip(outputs[0], outputs[1]) {
      let (a, b) = (x - means[0], y - means[1])
      sums = (sums.0 + a * b, sums.1 + a * a, sums.2 + b * b)
    }
    #expect(abs(found - sums.0 / (sums.1 * sums.2).squareRoot()) < 1e-6 && found < 0.9999)
    let alone = try Evaluation(texts: [bench.corpus], length: 24)
    let (message, code) = bench.failure { _ = try alone.check(Model(folder: output)) }
    #expect(code == 64 && message.contains("does not predict"))
  }

  @Test func longWindowsAreRefused() throws {
    let bench = try Workbench()
    let model = try Model(folder: bench.model)
    let longest = model.outline.maximumLength
    try Evaluation(texts: [bench.corpus], length: longest).check(model)
    let (message, code) = bench.failure {
      try Evaluation(texts: [bench.corpus], length: longest + 1).check(model)
    }
    #expect(code == 64 && message.contains("at most \(longest) tokens"))
  }

  private func ask(_ model: Model, _ path: String, _ bench: Workbench) throws -> TaskReport {
    let report = try Evaluation(texts: [], tasks: [TaskFile(name: "questions", path: path)]).run(
      model, scratch: bench.folder.path + "/scratch", memory: 1 << 30, on: device)
    return try #require(report.pruned.tasks.first)
  }

  /// The probabilities after each token, from whole logits in f64.
  private func softmax(_ model: Model, _ ids: [Int32]) throws -> [[Double]] {
    let logits = try model.logits(ids, length: ids.count, on: device)
    return ids.indices.map { row in
      let exponentials = (0..<logits.columns).map { exp(Double(logits[row, $0])) }
      let sum = exponentials.reduce(0, +)
      return exponentials.map { $0 / sum }
    }
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
