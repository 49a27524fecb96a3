import EspalierCore
import EspalierPipeline
import EspalierTestSupport
import Testing

@testable import EspalierReport

@Suite struct TablesTests {
  @Test func everyMatrixAndStageHasARow() throws {
    let rows = MatrixTable.csv(try FakeRun.usual().report()).split(separator: "\r\n")
      .map { $0.split(separator: ",", omittingEmptySubsequences: false).map(String.init) }
    #expect(rows.count == 1 + 12 && rows.allSatisfy { $0.count == rows[0].count })
    let column = Dictionary(rows[0].enumerated().map { ($1, $0) }, uniquingKeysWith: { first, _ in first })
    func value(_ row: Int, _ name: String) -> String? { column[name].map { rows[row][$0] } }
    #expect(value(2, "matrix") == "model.layers.0.self_attn.q_proj" && value(2, "block") == "0")
    #expect(value(2, "kind") == "self_attn.q_proj" && value(2, "stage") == "swap")
    #expect(value(2, "loss_before") == "100.0" && value(2, "error_reduction") == "0.5")
    #expect(value(1, "loss_before") == "" && value(2, "swaps") == "5" && value(2, "seconds") == "2.0")
    #expect(value(2, "kept") == "64" && value(2, "pattern") == "2:4")
  }

  @Test func fieldsWithCommasQuotesAndLinesAreQuoted() throws {
    var run = try FakeRun()
    try run.add("s/x", FakeRun.matrix("a,\"b\"\r\nc", before: 2, after: 1))
    #expect(MatrixTable.csv(try run.report()).contains("\"a,\"\"b\"\"\r\nc\""))
  }

  @Test func twoRunsAreComparedNumberByNumber() throws {
    let first = try FakeRun.usual(blocks: 1).report()
    var run = try FakeRun()
    let name = "model.layers.0.self_attn.q_proj"
    try run.add("swap/\(name)", FakeRun.matrix(name, before: 100, after: 25), seconds: 6)
    let comparison = RunComparison(first, try run.report(), names: ("a", "b"))
    func row(_ group: String, _ name: String) -> RunComparison.Row? {
      comparison.groups.first { $0.name.hasPrefix(group) }?.rows.first { $0.name == name }
    }
    let removed = try #require(row("totals", "output error removed"))
    #expect(removed.first == 0.375 && removed.second == 0.75 && removed.shownChange == "+37.5 points")
    let query = try #require(row("error left", "self_attn.q_proj"))
    #expect(query.first == 50 && query.second == 25 && query.change == -0.5 && query.shownChange == "-50.0 %")
    let down = try #require(row("error left", "mlp.down_proj"))
    #expect(down.first == 75 && down.second == nil && down.change == nil && down.shownChange == "")
    let time = try #require(row("time of", "swap"))
    #expect(time.first == 4 && time.second == 6 && time.change == 0.5)
    #expect(comparison.json["groups"]?.array?.count == comparison.groups.count)
  }

  @Test func namesAreDividedIntoBlockAndKind() {
    for (name, block, kind) in [
      ("model.layers.3.mlp.down_proj", 3, "mlp.down_proj"), ("h.11.attn.c_attn", 11, "attn.c_attn"),
      ("model.layers.3.mlp.experts.5.w1", 3, "mlp.experts.*.w1"), ("lm_head", nil, "lm_head"),
      ("a.b", nil, "a.b"), ("", nil, ""), ("0", 0, "0"), ("x.99999999999999999999.y", nil, "y"),
    ] as [(String, Int?, String)] {
      #expect(ModuleName(name).block == block && ModuleName(name).kind == kind, "\(name)")
    }
  }

  @Test func base64IsThatOfTheStandard() {
    for (text, code) in [
      ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy"),
    ] { #expect(Base64.text(Array(text.utf8)) == code) }
  }
}
