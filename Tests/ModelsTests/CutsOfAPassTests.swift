import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierTestSupport
import Testing

/// A pass that stops at every cut and goes on from the states there is the whole pass, bit for bit.
@Suite struct CutsOfAPassTests {
  static let families = [
    "llama", "gemma2", "gpt2", "gptj", "gpt_neox", "falcon", "falcon-one-norm", "phi", "opt", "bloom", "bert",
    "cohere2", "granite", "olmo2", "exaone4", "deepseek_v2", "deepseek_v3", "mixtral", "qwen2_moe", "gpt_oss",
    "glm4_moe", "qwen3_next", "lfm2", "gemma4_text-moe",
  ]

  @Test(arguments: families) func goingOnFromEveryCut(name: String) throws {
    let folder = try TemporaryFolder()
    let family = try FamilyCheckpoint(name)
    try family.write(to: folder.path)
    let model = try Model(folder: folder.path)
    let ids = try #require(family.expected.min { $0.key < $1.key }).value.ids
    let weights = TensorSource(model.checkpoint, on: device)
    var whole = try model.embed(ids, length: ids.count, tensors: weights)
    var inPieces = try model.embed(ids, length: ids.count, tensors: weights)
    for block in model.outline.blocks {
      var seen: [String: [Float]] = [:]
      try model.forward(
        block: block.index, hidden: &whole, length: ids.count, weights: weights
      ) {
        site, inputs, _ in seen[site, default: []] += inputs.array()
      }
      try goOn(&inPieces, model, block, weights, seen)
      #expect(whole.array() == inPieces.array(), "block \(block.index)")
    }
  }

  /// Replaces the hidden states with those after a block, from cut to cut.
  private func goOn(
    _ hidden: inout Matrix, _ model: Model, _ block: ModelOutline.Block, _ weights: TensorSource,
    _ expected: [String: [Float]]
  ) throws {
    let (index, length) = (block.index, hidden.rows)
    var mixed = try inputs("output", hidden, .start, nil, model, index, weights, expected)
    var entered = copy(hidden)
    try model.enter(block: index, hidden: &entered, length: length, weights: weights)
    let toFeedForward = copy(hidden)
    try model.finish(&mixed, at: .output, block: index, hidden: &hidden, length: length, weights: weights)
    try expectMixerAlone(toFeedForward, hidden, model, index, weights)
    try expectDifference(.output, entered, hidden, mixed, model, block, weights)
    let before = block.isParallel ? HeldMatrix(entered) : nil
    guard block.cuts.contains(.down) else {
      return try model.forward(
        block: index, hidden: &hidden, length: length, from: .feedForward, before: before, weights: weights)
    }
    var inner = try inputs("down", hidden, .feedForward, before, model, index, weights, expected)
    let afterMixer = copy(hidden)
    try model.finish(&inner, at: .down, block: index, hidden: &hidden, length: length, weights: weights)
    try expectDifference(.down, afterMixer, hidden, inner, model, block, weights)
  }

  /// A pass that ends after the mixer gives the hidden states there.
  private func expectMixerAlone(
    _ start: borrowing Matrix, _ expected: borrowing Matrix, _ model: Model, _ block: Int,
    _ weights: TensorSource
  ) throws {
    var hidden = copy(start)
    try model.forward(block: block, hidden: &hidden, length: hidden.rows, to: .feedForward, weights: weights)
    #expect(hidden.array() == expected.array(), "block \(block)")
  }

  /// If the outline says so, the hidden states around a layer tell the product of its weights and inputs.
  private func expectDifference(
    _ cut: ModelOutline.Cut, _ before: borrowing Matrix, _ after: borrowing Matrix,
    _ inputs: borrowing Matrix, _ model: Model, _ block: ModelOutline.Block, _ weights: TensorSource
  ) throws {
    guard let site = block.site(at: cut), site.isDifference else { return }
    var found = copy(after)
    try model.subtract(before, from: &found, ofLayerAt: cut, block: block.index, weights: weights)
    let matrix = site.matrices[0]
    let layer = try LinearWeight(model.checkpoint.stored(matrix), order: matrix.order, pruned: nil)
      .matrix(0..<matrix.rows).array()
    let (inputs, values, states) = (inputs.array(), found.array(), after.array())
    let scale = states.reduce(0) { max($0, abs($1)) } / (site.residualScale ?? 1)
    for token in 0..<found.rows {
      for row in 0..<matrix.rows {
        let product = (0..<matrix.columns).reduce(0.0) {
          $0 + Double(inputs[token * matrix.columns + $1]) * Double(layer[row * matrix.columns + $1])
        }
        #expect(
          abs(Double(values[token * matrix.rows + row]) - product) <= 1e-5 * Double(scale),
          "block \(block.index), \(site.name), token \(token), row \(row)")
      }
    }
  }

  /// Norms behind the sum, or a factor of it, hide the difference.
  @Test(arguments: [
    ("llama", ["output", "down"]), ("gpt2", ["output", "down"]), ("falcon", ["output", "down"]),
    ("granite", ["output", "down"]), ("bert", []), ("gemma2", []), ("mixtral", ["output"]),
    ("bloom-post-norm", ["down"]),
  ])
  func outputsAreDifferencesWhereNothingElseHappens(name: String, expected: [String]) throws {
    let folder = try TemporaryFolder()
    try FamilyCheckpoint(name).write(to: folder.path)
    for block in try Model(folder: folder.path).outline.blocks {
      #expect(block.sites.filter(\.isDifference).map(\.name) == expected)
      #expect(block.denseCuts == block.cuts.filter { cut in !expected.contains("\(cut)") })
    }
  }

  /// The inputs of a site, in a pass that ends there.
  private func inputs(
    _ site: String, _ hidden: borrowing Matrix, _ cut: ModelOutline.Cut, _ before: HeldMatrix?,
    _ model: Model, _ block: Int, _ weights: TensorSource, _ expected: [String: [Float]]
  ) throws -> Matrix {
    var states = copy(hidden)
    var seen: [Float] = []
    try model.forward(
      block: block, hidden: &states, length: states.rows, from: cut, before: before, wanted: [site],
      weights: weights
    ) { name, inputs, _ in if name == site { seen += inputs.array() } }
    #expect(seen == expected[site])
    return Matrix(rows: hidden.rows, columns: seen.count / hidden.rows, seen)
  }

  private func copy(_ states: borrowing Matrix) -> Matrix {
    Matrix(rows: states.rows, columns: states.columns, states.array())
  }
}
