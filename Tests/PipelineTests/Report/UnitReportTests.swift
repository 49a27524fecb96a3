import EspalierCore
import EspalierIO
import Testing

@testable import EspalierPipeline

/// Reports are stored as JSON and read back.
@Suite struct UnitReportTests {
  private static let matrix = ModelOutline.Matrix(module: "m", rows: 3, columns: 8)

  private static var reports: [UnitReport] {
    var factor = FactorReport()
    (factor.columns, factor.tokens, factor.routedTokens, factor.isShrunk) = (8, 240, 7, true)
    (factor.rank, factor.discardedEnergy, factor.inputs) = (2, 0.25, SHA256.digest(of: "inputs"))
    var allocation = AllocationReport()
    (allocation.method, allocation.matrices, allocation.mostSparsity) = ("owl", 14, 0.75)
    allocation.meanSparsity = 0.5
    let patterns: [SparsityPattern] = [
      .rows(sparsity: 0.6), .matrix(sparsity: 0.6), .groups(keep: 2, of: 4),
    ]
    let matrices = patterns.map { pattern in
      var report = MatrixReport(matrix, pattern)
      (report.lossBefore, report.lossAfter, report.lowerBound, report.swaps) = (8, 4, 1, 12)
      report.details = JSONObject([("rowsAtLimit", 3), ("nested", ["a": [1, 2]])])
      return UnitReport.matrix(report)
    }
    var scores = ModelScores()
    scores.perplexities = [PerplexityReport(text: "a", perplexity: 7.5, error: 0.5, length: 32, windows: 3)]
    scores.tasks = [TaskReport(task: "piqa", rows: 5, shots: 2, metrics: JSONObject([("acc", 0.4)]))]
    var comparison = ComparisonReport()
    (comparison.text, comparison.divergence, comparison.ratioError) = ("a", 0.25, 0.5)
    return matrices + [
      .corpus(CorpusReport(samples: 2, length: 8)), .hidden(HiddenReport(samples: 2)), .factor(factor),
      .factor(FactorReport()), .allocation(allocation), .matrix(MatrixReport(matrix, patterns[0])),
      .output(OutputReport(matrices: 14, files: 5, digest: SHA256.digest(of: "output"))),
      .evaluation(EvaluationReport(pruned: scores, dense: scores, comparisons: [comparison])),
      .evaluation(EvaluationReport(pruned: ModelScores(), dense: nil, comparisons: [])),
    ]
  }

  @Test(arguments: reports.indices) func whatIsWrittenIsRead(index: Int) throws {
    let json = Self.reports[index].json
    #expect(UnitReport(json: json)?.json == json)
    // Also through text, and with members of a later version.
    let members = try #require(try JSON(parsing: json.text).object?.members)
    let later = JSON.object(JSONObject(members + [("later", ["a": 1])]))
    #expect(UnitReport(json: later)?.json == json)
  }

  /// A report with a member of the wrong type, or without a required one, is not read.
  @Test(arguments: reports.indices) func whatIsDamagedIsNotRead(index: Int) throws {
    let members = try #require(Self.reports[index].json.object?.members)
    for place in members.indices {
      var changed = members
      changed[place].value = [true]
      #expect(UnitReport(json: .object(JSONObject(changed))) == nil, "\(members[place].key)")
    }
    #expect(UnitReport(json: .object(JSONObject(Array(members.dropFirst())))) == nil)
    #expect(UnitReport(json: .null) == nil && UnitReport(json: ["kind": "later"]) == nil)
    #expect(UnitReport(json: ["kind": "hidden"]) == nil && UnitReport(json: ["kind": "matrix"]) == nil)
  }

  @Test func theJSONIsAsDocumented() {
    var report = MatrixReport(Self.matrix, .groups(keep: 2, of: 4))
    report.lossAfter = 4
    #expect(
      UnitReport.matrix(report).json.text
        == #"{"kind":"matrix","matrix":"m","rows":3,"columns":8,"pattern":{"keep":2,"of":4},"lossAfter":4.0,"details":{}}"#
    )
    #expect(report.kept == 12 && report.certifiedGap == nil)
    report.lowerBound = 1
    #expect(report.certifiedGap == 0.75)
  }
}
