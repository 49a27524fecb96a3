import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierTestSupport
import Testing

/// Every family against transformers in float32: tiny checkpoints with odd sizes, made by tools/make_families.py.
@Suite struct FamilyTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  /// Settings that are not supported yet: models that pass more than the hidden states from block to block.
  private static let refused = ["gemma4", "gemma4_text", "gemma4_text-shared"]

  private static let names = ((try? FamilyCheckpoint.names()) ?? []).filter { !refused.contains($0) }

  @Test func thereAreFamilies() { #expect(Self.names.count > 90) }

  @Test(arguments: refused)
  func whatIsNotComputedIsRefused(name: String) throws {
    try FamilyCheckpoint(name).write(to: folder.path)
    let error = #expect(throws: EspalierError.self) { try Model(folder: folder.path) }
    let message = error.map { "\($0)" } ?? ""
    #expect(message.contains("hidden_size_per_layer_input") || message.contains("num_kv_shared_layers"))
  }

  @Test(arguments: names)
  func outputsAreThoseOfTransformers(name: String) throws {
    let family = try FamilyCheckpoint(name)
    try family.write(to: folder.path)
    let model = try Model(folder: folder.path)
    for (key, expected) in family.expected {
      let outputs = try outputs(model, family, expected)
      let width = expected.values.count / max(1, expected.rows.count)
      try #require(outputs.columns == width)
      let range = (expected.values.max() ?? 0) - (expected.values.min() ?? 0)
      var worst: Float = 0
      for (index, row) in expected.rows.enumerated() {
        for column in 0..<width {
          worst = max(worst, abs(outputs[row, column] - expected.values[index * width + column]))
        }
      }
      #expect(worst <= 1e-5 * range, "\(key): \(worst) of \(range)")
    }
  }

  private func outputs(
    _ model: Model, _ family: FamilyCheckpoint, _ expected: FamilyCheckpoint.Expected
  ) throws -> Matrix {
    guard let pixels = family.pixels else {
      return try model.logits(expected.ids, length: expected.ids.count, on: device)
    }
    return try model.outputs(
      pixels: Matrix(rows: pixels.shape[0], columns: pixels.values.count / pixels.shape[0], pixels.values),
      on: device)
  }

  /// A pass for some sites observes the same inputs as a whole pass, and sites come in the order of the outline.
  @Test(arguments: names)
  func sitesComeInOrder(name: String) throws {
    let family = try FamilyCheckpoint(name)
    guard let ids = family.expected["17"]?.ids else { return }
    try family.write(to: folder.path)
    let model = try Model(folder: folder.path)
    let tensors = TensorSource(model.checkpoint, on: device)
    var hidden = try model.embed(ids, length: ids.count, tensors: tensors)
    for block in model.outline.blocks {
      let sites = block.sites.map(\.name)
      let entering = Matrix(rows: hidden.rows, columns: hidden.columns, hidden.array())
      let whole = try inputs(model, block.index, &hidden, ids.count, wanted: nil)
      var last = -1
      for site in whole.order {
        let place = try #require(sites.firstIndex(of: site), "\(site) is not in the outline")
        #expect(place > last)
        last = place
        let columns = block.sites[place].columns
        #expect((whole.values[site]?.count ?? 0) % columns == 0)
      }
      for site in sites {
        var states = Matrix(rows: entering.rows, columns: entering.columns, entering.array())
        let some = try inputs(model, block.index, &states, ids.count, wanted: [site])
        #expect(some.values[site] == whole.values[site])
      }
    }
  }

  private struct Seen {
    var order: [String] = []
    var values: [String: [Float]] = [:]
  }

  private func inputs(
    _ model: Model, _ block: Int, _ hidden: inout Matrix, _ length: Int, wanted: Set<String>?
  ) throws -> Seen {
    var seen = Seen()
    try model.forward(
      block: block, hidden: &hidden, length: length, wanted: wanted,
      weights: TensorSource(model.checkpoint, on: device)
    ) { site, inputs, rows in
      #expect(rows.count == inputs.rows)
      if seen.values[site] == nil { seen.order.append(site) }
      seen.values[site, default: []] += inputs.array()
    }
    return seen
  }
}
