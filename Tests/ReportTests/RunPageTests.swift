import EspalierCore
import EspalierIO
import EspalierPipeline
import EspalierTestSupport
import Foundation
import FoundationXML
import Testing

@testable import EspalierReport

@Suite struct RunPageTests {
  private func page(_ run: FakeRun) throws -> String {
    try RunPage(run.report(), work: run.work).html()
  }

  /// The pictures of a page, each of which must be XML.
  private func pictures(_ page: String) throws -> [String] {
    try page.split(separator: "<svg").dropFirst().map { part in
      let end = try #require(part.range(of: "</svg>"))
      let picture = "<svg" + part[..<end.upperBound]
      let parser = XMLParser(data: Data(picture.utf8))
      #expect(parser.parse(), "\(String(describing: parser.parserError))")
      return picture
    }
  }

  @Test func everyBlockOfEveryKindHasACell() throws {
    let page = try page(FakeRun.usual(blocks: 4))
    let pictures = try pictures(page)
    // One heat map and a picture of the errors for each kind.
    #expect(pictures.count == 3)
    #expect(pictures[0].components(separatedBy: "<rect").count - 1 == 8)
    #expect(pictures[0].contains("self_attn.q_proj, block 3: 50.0 % of the error removed"))
    #expect(pictures[0].contains("mlp.down_proj, block 0: 25.0 % of the error removed"))
    for text in [
      "Tiny", "pruned to 2:4", "37.5 %", "drawn at random with seed 7", "c.txt",
      "https://arxiv.org/abs/2512.10922",
      "2026-01-02 03:04:05 UTC", "espalier 9.9", "<dt>perplexity</dt>",
    ] { #expect(page.contains(text), "\(text)") }
  }

  /// Nothing is loaded and nothing runs; links lead only to papers.
  @Test func aPageNeedsNothingButItself() throws {
    let page = try page(FakeRun.usual())
    #expect(!page.contains("<script") && !page.contains("@import") && !page.contains("url("))
    for part in page.components(separatedBy: "src=\"").dropFirst() {
      #expect(part.hasPrefix("data:image/png;base64,"))
    }
    let addresses = page.components(separatedBy: "://").dropLast().map { $0.suffix(14) }
    #expect(addresses.allSatisfy { $0.hasSuffix("<a href=\"https") })
    #expect(page.contains("default-src 'none'"))
  }

  /// Names and texts from files, at every place of the page.
  @Test func whatComesFromFilesIsEscaped() throws {
    let evil = "</title><script>alert(1)</script>\"'&{{recipe}}{{{memory}}}\u{202E}\u{1B}[31m"
    var run = try FakeRun(start: [
      ("model", .string("/x/" + evil.replacing("/", with: "\\"))), ("recipe", .string(evil)),
      ("version", .string(evil)),
      (
        "stages",
        [
          [
            "id": .string(evil), "name": .string(evil), "parameters": ["draw": .string(evil)],
            "files": ["corpus": .string(evil)],
          ]
        ]
      ),
      ("outputs", [["kind": "checkpoint", "path": .string(evil), "bytes": 1]]),
      (
        "coverage",
        [
          "tensors": 1, "parameters": 10, "pruned": [["name": .string(evil), "count": 1, "parameters": 10]],
          "left": [], "fixed": [], "missed": [], "unused": [],
        ]
      ),
    ])
    try run.add(evil, .corpus(CorpusReport(samples: 4, length: 8)))
    try run.add("swap/x", FakeRun.matrix("a.0." + evil, before: 4, after: 2), mask: nil, damaged: true)
    var scores = ModelScores()
    scores.perplexities = [PerplexityReport(text: evil, perplexity: 3, error: 0.1, length: 8, windows: 2)]
    scores.tasks = [
      TaskReport(task: evil, rows: 3, shots: 0, metrics: JSONObject([(evil, 0.5)]))
    ]
    try run.add(
      "evaluate", .evaluation(EvaluationReport(pruned: scores, dense: nil, comparisons: [])))
    let page = try page(run)
    #expect(!page.contains("<script") && page.contains("&lt;script&gt;"))
    #expect(!page.unicodeScalars.contains { $0 == "\u{202E}" || $0 == "\u{1B}" })
    // Braces from files are text, not a template.
    #expect(page.contains("{{recipe}}"))
    _ = try pictures(page)
    let comparison = RunComparison(try run.report(), try run.report(), names: (evil, evil))
    #expect(try !comparison.page().html().contains("<script"))
  }

  @Test(arguments: [
    (SparsityPattern.groups(keep: 2, of: 4), 1), (.rows(sparsity: 0.5), 2),
  ])
  func masksAreShown(pattern: SparsityPattern, pictures: Int) throws {
    var run = try FakeRun()
    var mask = Mask(rows: 20, columns: 64, pattern: pattern)
    for row in 0..<20 {
      for column in 0..<64 {
        // Rows keep their first half; groups their first two.
        mask[row, column] = pictures == 1 ? column % 4 < 2 : column < 32
      }
    }
    let name = "model.layers.0.mlp.up_proj"
    try run.add(
      "warmStart/\(name)",
      FakeRun.matrix(name, before: nil, after: 1, pattern: pattern, rows: 20, columns: 64),
      mask: mask)
    let page = try page(run)
    #expect(page.components(separatedBy: "data:image/png").count - 1 == pictures)
    #expect(page.contains(pictures == 1 ? "all parts keep 50 %" : "parts keep 0 % to 100 %"))
  }

  @Test func aMaskThatIsDamagedOrGoneIsTold() throws {
    for isDamaged in [true, false] {
      var run = try FakeRun()
      try run.add(
        "warmStart/a.0.b", FakeRun.matrix("a.0.b", before: nil, after: 1), damaged: isDamaged)
      #expect(try page(run).contains("The mask cannot be read: "))
    }
  }

  @Test func expertsWithFewTokensAreCounted() throws {
    var run = try FakeRun.usual()
    for (expert, tokens) in [3, 20, 5].enumerated() {
      var report = FactorReport()
      (report.columns, report.routedTokens, report.isShrunk) = (16, tokens, tokens == 3)
      try run.add("factor/1/expert.\(expert).mlp", .factor(report))
    }
    let page = try page(run)
    #expect(page.contains("2 of 3 inputs of experts saw fewer tokens than they are wide; to 1 of them"))
    #expect(try !self.page(FakeRun.usual()).contains("Experts with few tokens"))
  }

  /// Damaged files can hold any number.
  @Test func noNumberTrapsAndNoneIsWrittenAsNaN() throws {
    var random = SeededRandom(seed: 3)
    let numbers: [Double?] = [
      nil, 0, -0.0, 1, -5, 1e300, -1e300, 1e-300, .leastNonzeroMagnitude, .greatestFiniteMagnitude, 12345.678,
    ]
    for _ in 0..<60 {
      var run = try FakeRun()
      for index in 0..<Int.random(in: 0...5, using: &random) {
        let name =
          ["a.\(index).b", "c", "", "x.99999999999999999999.y", ".", "a..b.0"].randomElement(using: &random)
          ?? ""
        func number() -> Double? { numbers.randomElement(using: &random) ?? nil }
        let huge = Bool.random(using: &random) ? Int(1) << 31 : 4
        try run.add(
          "s\(index % 2)/\(index)",
          FakeRun.matrix(
            name, before: number(), after: number(), swaps: Bool.random(using: &random) ? .max : nil,
            bound: number(), rows: huge, columns: 8),
          seconds: abs(number() ?? 1))
      }
      let page = try page(run)
      _ = try pictures(page)
      #expect(!page.contains("nan"))
      _ = MatrixTable.csv(try run.report())
      _ = RunComparison(try run.report(), try FakeRun.usual().report(), names: ("a", "b")).json
    }
  }

  @Test func aRunThatHasJustBegunHasAPage() throws {
    let run = try FakeRun()
    let page = try RunPage(run.report(end: false), work: run.work).html()
    #expect(page.contains("killed") && !page.contains("Error removed"))
  }
}
