import EspalierCore
import EspalierIO
import EspalierPipeline
import EspalierTestSupport
import Testing

@testable import EspalierStages

@Suite struct TaskTests {
  /// Requests and measures of the EleutherAI harness for made-up rows; see tools/make_task_golden.py.
  @Test func requestsAndMeasuresAreThoseOfTheHarness() throws {
    let folder = try TemporaryFolder()
    var seen: Set<String> = []
    for golden in try lines().filter({ $0["task"] != nil }) {
      let name = try #require(golden["task"]?.string)
      let shots = try #require(golden["shots"]?.integer)
      let requests = try #require(golden["requests"]?.array)
      seen.insert(name)
      let rows = try write(golden["rows"], to: folder.path + "/rows.jsonl")
      let examples = try golden["examples"].map { try write($0, to: folder.path + "/examples.jsonl") }
      var options = TaskOptions()
      (options.limit, options.shots) = (requests.count, shots)
      let task = try Task(TaskFile(name: name, path: rows, examples: examples), options)
      let found = task.pairs.map { row in row.map { [$0.context, $0.continuation] } }
      let expected = requests.map { row in
        (row.array ?? []).map { ($0.array ?? []).compactMap(\.string) }
      }
      if name == "wikitext" {
        #expect(found.map { $0.map { TaskText.withoutSplits($0[1]) } } == expected.map { $0.map { $0[0] } })
      } else {
        #expect(found == expected, "\(name), \(shots) shots")
      }
      let sums = numbers(golden["scores"])
      let greedy = (golden["greedy"]?.array ?? []).map { ($0.array ?? []).compactMap(\.bool) }
      let scores = zip(sums, greedy).map { sums, greedy in
        zip(sums, greedy).map { SequenceScores(logProbabilities: [$0], isFirstChoice: [$1]) }
      }
      let metrics = task.report(scores).metrics
      for (metric, value) in golden["metrics"]?.object?.members ?? [] {
        let own = try #require(metrics[metric]?.double, "\(name) \(metric)")
        let other = try #require(value.double)
        #expect(abs(own - other) <= 1e-12 * abs(other), "\(name) \(metric)")
      }
    }
    #expect(seen == Set(TaskFile.names).subtracting(["questions"]))
  }

  @Test func windowsOfDocumentsAreThoseOfTheHarness() throws {
    for golden in try lines().filter({ $0["windows"] != nil }) {
      let count = try #require(golden["tokens"]?.integer)
      let longest = try #require(golden["longest"]?.integer)
      let windows = TaskRequests.windows((0..<count).map { Int32(100 + $0) }, prefix: 1, longest: longest)
      let expected = (golden["windows"]?.array ?? []).map { window in
        (window.array ?? []).map { ($0.array ?? []).compactMap { $0.integer.map(Int32.init) } }
      }
      #expect(windows.map { [$0.context, $0.targets] } == expected)
    }
  }

  /// The data sets' own columns and those of llm-foundry give the prompts of the columns on Hugging Face.
  @Test func otherColumnsGiveTheSamePrompts() throws {
    let same: [(task: String, first: JSON, second: JSON)] = [
      (
        "arc_easy",
        [
          "question": "Why?", "choices": ["text": ["so", "not so"], "label": ["A", "B"]], "answerKey": "B",
        ],
        [
          "question": [
            "stem": "Why?",
            "choices": [["text": "so", "label": "A"], ["text": "not so", "label": "B"]] as JSON,
          ], "answerKey": "B",
        ]
      ),
      (
        "arc_easy",
        [
          "question": "Why?", "choices": ["text": ["so", "not so"], "label": ["A", "B"]], "answerKey": "B",
        ],
        ["query": "Question: Why?", "choices": ["so", "not so"], "gold": 1]
      ),
      (
        "boolq", ["passage": "It is.", "question": "is it", "label": 1],
        ["passage": "It is.", "question": "is it", "answer": true, "title": "x"]
      ),
      (
        "rte", ["sentence1": "A b.", "sentence2": "B.", "label": 1],
        ["premise": "A b.", "hypothesis": "B.", "label": "not_entailment"]
      ),
      (
        "winogrande",
        ["sentence": "The cat saw _ run off.", "option1": "it", "option2": "her", "answer": "2"],
        ["context_options": ["The cat saw it", "The cat saw her"], "continuation": "run off.", "gold": 1]
      ),
      ("lambada_openai", ["text": "it was a cat"], ["context": "it was a", "continuation": "cat"]),
    ]
    let folder = try TemporaryFolder()
    for (name, first, second) in same {
      let tasks = try [first, second].map { row in
        try Task(
          TaskFile(name: name, path: write(.array([row]), to: folder.path + "/rows.jsonl")), TaskOptions())
      }
      #expect(
        tasks[0].pairs == tasks[1].pairs && tasks[0].rows[0].answer == tasks[1].rows[0].answer, "\(name)")
    }
  }

  @Test func otherLayoutsAreNamedBeforeAnyWork() throws {
    let folder = try TemporaryFolder()
    let path = folder.path + "/rows.jsonl"
    let good = "{\"goal\": \"a\", \"sol1\": \"b\", \"sol2\": \"c\", \"label\": 0}\n"
    for (line, number, words) in [
      (
        "{\"question\": \"x\", \"answer\": 1}", 1,
        ["goal, sol1, sol2, label; or query, choices, gold", "question, answer"]
      ),
      (good + "{\"goal\": \"a\", \"sol1\": \"b\"}", 2, ["sol2"]),
      (good + "{\"goal\": \"a\", \"sol1\": \"b\", \"sol2\": \"c\", \"label\": 2}", 2, ["names no choice"]),
      (good + "{\"goal\": \"a\", \"sol1\": \"b\", \"sol2\": \"c\", \"label\": -1}", 2, ["names no choice"]),
      (good + "{\"goal\": \"a\", \"sol1\": \"\", \"sol2\": \"c\", \"label\": 1}", 2, ["empty"]),
      ("[", 1, []), ("3", 1, ["JSON object"]),
    ] {
      try Folder.writeAtomically(Array(line.utf8), to: path)
      let error = #expect(throws: EspalierError.self) {
        try Task(TaskFile(name: "piqa", path: path), TaskOptions())
      }
      let text = error.map { "\($0)" } ?? ""
      #expect(text.contains("rows.jsonl:\(number)") && words.allSatisfy(text.contains), "\(text)")
    }
    let error = #expect(throws: EspalierError.self) {
      try Task(TaskFile(name: "pica", path: path), TaskOptions())
    }
    #expect(error.map { "\($0)" }?.contains("piqa") ?? false)
  }

  @Test func tooFewExamplesAreRefused() throws {
    let folder = try TemporaryFolder()
    let row: JSON = ["goal": "a", "sol1": "b", "sol2": "c", "label": 0]
    let path = try write(.array([row, row, row]), to: folder.path + "/rows.jsonl")
    var options = TaskOptions()
    options.shots = 3
    #expect(throws: EspalierError.self) { try Task(TaskFile(name: "piqa", path: path), options) }
  }

  private func lines() throws -> [JSON] {
    try Folder.read(Places.golden + "/tasks.jsonl").split(separator: UInt8(ascii: "\n")).map {
      try JSON(parsing: Array($0).span.bytes)
    }
  }

  private func write(_ rows: JSON?, to path: String) throws -> String {
    let text = (rows?.array ?? []).map { $0.text + "\n" }.joined()
    try Folder.writeAtomically(Array(text.utf8), to: path)
    return path
  }

  private func numbers(_ json: JSON?) -> [[Double]] {
    (json?.array ?? []).map { ($0.array ?? []).compactMap(\.double) }
  }
}
