import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierTestSupport
import Testing

/// Logits against transformers in float32; golden values by tools/make_golden.py and tools/make_tiny_models.py.
@Suite struct LogitsTests {
  @Test(arguments: ["llama3-rope-biases", "linear-rope-f16-tied", "one-key-head-bf16-sharded"])
  func tinyModelsOfEveryKind(name: String) throws {
    let folder = "\(Places.golden)/tiny/\(name)"
    let expected = try SafetensorsFile(path: folder + "/expected.safetensors")
    let ids = try expected.tensor("ids").integers()
    let logits = try Model(folder: folder).logits(ids, length: ids.count / 2, on: device)
    // Every seventh row of each of two sequences was kept.
    let golden = try expected.tensor("logits").floats()
    let rows = (0..<2).flatMap { sequence in
      stride(from: 0, to: ids.count / 2, by: 7).map { sequence * ids.count / 2 + $0 }
    }
    expectEqual(logits, rows: rows, golden)
  }

  @Test(.enabled(if: Places.exists(Places.demo + "/model.safetensors")))
  func demoModel() throws { try compare(Places.demo, "demo") }

  @Test(
    .enabled(if: Places.exists(Places.shared), "needs ../shared"),
    arguments: ["tinystories-656K", "stories260K"])
  func sharedModel(name: String) throws { try compare("\(Places.shared)/data/models/\(name)", name) }

  private func compare(_ folder: String, _ name: String) throws {
    let model = try Model(folder: folder)
    let expected = try SafetensorsFile(path: "\(Places.golden)/\(name)-logits.safetensors")
    for count in [1, 2, 17, 512] {
      let ids = try expected.tensor("ids.\(count)").integers()
      #expect(ids.count == count)
      let rows = count == 512 ? try expected.tensor("rows.512").integers().map(Int.init) : Array(0..<count)
      expectEqual(
        try model.logits(ids, length: count, on: device), rows: rows,
        try expected.tensor("logits.\(count)").floats())
    }
  }

  /// Differences are at most 1e-4 of the range of the logits.
  private func expectEqual(_ logits: borrowing Matrix, rows: [Int], _ golden: borrowing Matrix) {
    let width = logits.columns
    #expect(golden.columns == rows.count * width)
    let values = golden.array()
    let range = (values.max() ?? 0) - (values.min() ?? 0)
    var worst: Float = 0
    for (index, row) in rows.enumerated() {
      for column in 0..<width {
        worst = max(worst, abs(logits[row, column] - values[index * width + column]))
      }
    }
    #expect(worst <= 1e-4 * range, "\(worst) of \(range)")
  }
}
