import EspalierCore
import EspalierIO
import EspalierPipeline
import EspalierTestSupport

/// A work folder with the events and manifests of a run that never was.
struct FakeRun {
  let folder: TemporaryFolder
  var work: String { folder.path + "/work" }
  private var events: [JSON] = []
  private var units = 0

  /// - Parameter start: more members of the event that starts the run.
  init(start: [(key: String, value: JSON)] = []) throws {
    folder = try TemporaryFolder()
    _ = try ArtifactStore(folder: work)
    events = [
      .object(
        JSONObject(
          [
            ("event", "start"), ("time", "2026-01-02T03:04:05Z"), ("units", 1),
          ] + start))
    ]
  }

  /// Adds a unit with its report.
  mutating func add(
    _ unit: String, _ report: UnitReport, seconds: Double = 1, mask: Mask? = nil, damaged: Bool = false
  ) throws {
    let store = try ArtifactStore(existing: work)
    let key = SHA256.digest(of: "\(units) \(unit)")
    units += 1
    let place = try store.begin(key)
    if let mask { try MaskFile.write(mask, to: place + "/" + MaskFile.name) }
    if damaged { try Folder.writeAtomically([1, 2, 3], to: place + "/" + MaskFile.name) }
    _ = try store.commit(key, components: ["place": .string(unit)], report: report.json)
    events.append([
      "event": "done", "unit": .string(unit), "key": .string(key.hex), "seconds": .number(seconds),
      "buffers": 1000, "plannedBuffers": 2000, "peak": 123456, "report": report.json,
    ])
  }

  /// Ends the run and reads its report.
  func report(end: Bool = true) throws -> RunReport {
    let all = events + (end ? [["event": "end", "peak": 200000]] : [])
    try Folder.writeAtomically(
      Array(all.map { $0.text + "\n" }.joined().utf8), to: work + "/events.jsonl")
    return try RunReport(work: work)
  }

  /// A stage on a matrix.
  static func matrix(
    _ name: String, before: Double?, after: Double?, swaps: Int? = nil, bound: Double? = nil,
    pattern: SparsityPattern = .groups(keep: 2, of: 4), rows: Int = 8, columns: Int = 16
  ) -> UnitReport {
    var report = MatrixReport(
      ModelOutline.Matrix(module: name, rows: rows, columns: columns), pattern)
    (report.lossBefore, report.lossAfter, report.swaps, report.lowerBound) = (before, after, swaps, bound)
    return .matrix(report)
  }

  /// Two kinds of matrices in `blocks` blocks: the swaps remove half of the error of one and a quarter of that of the other.
  static func usual(blocks: Int = 3, name: (Int, String) -> String = { "model.layers.\($0).\($1)" }) throws
    -> FakeRun
  {
    var run = try FakeRun(start: [
      ("model", "/models/Tiny"), ("version", "9.9"),
      (
        "stages",
        [
          [
            "id": "tokenize", "name": "tokenize",
            "parameters": ["draw": "random", "seed": 7, "samples": 4, "length": 8],
            "files": ["corpus": "c.txt"],
          ],
          ["id": "swap", "name": "swap", "parameters": [:], "files": [:]],
        ]
      ),
      ("recipe", "stages:\n  - swap\n"),
    ])
    try run.add("tokenize", .corpus(CorpusReport(samples: 4, length: 8)))
    for block in 0..<blocks {
      for (kind, after) in [("self_attn.q_proj", 50.0), ("mlp.down_proj", 75)] {
        let name = name(block, kind)
        try run.add("warmStart/\(name)", matrix(name, before: nil, after: 100))
        try run.add("swap/\(name)", matrix(name, before: 100, after: after, swaps: 5), seconds: 2)
      }
    }
    return run
  }
}
