import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierTestSupport
import Testing

/// Masks and losses against the plain reference implementation (f64); golden values by tools/make_golden.py.
@Suite struct GoldenMaskTests {
  static let path = Places.golden + "/masks.safetensors"

  @Test(.enabled(if: Places.exists(path)), arguments: ["a", "b", "c", "d"], ["magnitude", "wanda", "ria"])
  func masksAreEqualAndSwapsReachTheSameLoss(name: String, warm: String) throws {
    let file = try SafetensorsFile(path: Self.path)
    let weights = try file.tensor("\(name).W")
    let (rows, columns) = (weights.shape[0], weights.shape[1])
    let gram = try file.tensor("\(name).G").doubles()
    let pattern: SparsityPattern =
      switch name {
      case "a": .rows(sparsity: 0.5)
      case "b": .rows(sparsity: 0.6)
      case "c": .groups(keep: 2, of: 4)
      default: .rows(sparsity: 0.75)
      }
    let folder = try TemporaryFolder()
    var writer = try SafetensorsWriter(
      path: folder.path + "/w.safetensors", tensors: [("w", .f32, [rows, columns])])
    try writer.append(weights.doubles().map(Float.init))
    try writer.finish()
    let weight = try LinearWeight(SafetensorsFile(path: folder.path + "/w.safetensors").tensor("w"))
    let saliency: Saliency = warm == "magnitude" ? .magnitude : warm == "wanda" ? .wanda : .ria(power: 0.5)

    var mask = mostSalient(
      weight, saliency, diagonal: (0..<columns).map { gram[$0 * columns + $0] }, pattern: pattern,
      on: device)
    #expect(try bytes(mask) == bytes(file, "\(name).\(warm).mask0"))
    let outcome = try refineBySwaps(
      weight, gram: GramMatrix(Matrix(rows: columns, columns: columns, gram.map(Float.init))), mask: &mask,
      options: SwapOptions(), on: device)
    let before = try file.tensor("\(name).\(warm).loss0").doubles().reduce(0, +)
    let after = try file.tensor("\(name).\(warm).loss").doubles().reduce(0, +)
    #expect(abs(outcome.lossBefore / before - 1) < 1e-5)
    #expect(outcome.lossAfter / after - 1 < 1e-4)
    // The same sequence of best swaps ends at the same mask.
    #expect(try bytes(mask) == bytes(file, "\(name).\(warm).mask"))
  }

  private func bytes(_ mask: Mask) -> [UInt8] {
    (0..<mask.rows).flatMap { row in (0..<mask.columns).map { mask[row, $0] ? 1 : 0 } }
  }

  private func bytes(_ file: SafetensorsFile, _ name: String) throws -> [UInt8] {
    try file.tensor(name, dtype: .u8).withBytes { Array($0) }
  }
}
