import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierPipeline

@Suite struct UnitGraphTests {
  private func graph(_ stages: String, blocks: Int = 3) throws -> UnitGraph {
    var checkpoint = ProbeBench.checkpoint
    checkpoint.blocks = blocks
    let recipe = try Recipe(text: "stages:\n\(stages)\n", source: "r.yaml", registry: Probe.registry)
    return try UnitGraph(recipe: recipe, model: ProbeBench.outline(checkpoint))
  }

  private static let start = "  - words: {corpus: c, length: 8}\n"
  private static let body = "  - sum\n  - first\n  - better\n  - write\n  - score"
  private static let pruned = start + "  - stream\n" + body
  private static let dense = start + "  - stream: {propagate: dense}\n" + body

  /// `unit < inputs`, with short names.
  private func lines(_ graph: UnitGraph) -> [String] {
    func short(_ id: String) -> String {
      id.replacing("model.layers.", with: "").replacing("self_attn.", with: "").replacing("mlp.", with: "")
    }
    return graph.units.map { unit in
      let inputs = unit.inputs.map { short(graph.units[$0].id) }.joined(separator: " ")
      return
        "\(short(unit.id)) < \(inputs)\(unit.pass.map { " pass \($0)" } ?? "")\(unit.isTransient ? " transient" : "")"
    }
  }

  @Test func thePrunedGraph() throws {
    #expect(
      lines(try graph(Self.pruned, blocks: 2)) == [
        "words < ", "stream/embed < words transient",
        "sum/0/attention < stream/embed pass 0 transient", "sum/0/down < stream/embed pass 0 transient",
        "first/0.q_proj < sum/0/attention", "better/0.q_proj < sum/0/attention first/0.q_proj",
        "first/0.k_proj < sum/0/attention", "better/0.k_proj < sum/0/attention first/0.k_proj",
        "first/0.down_proj < sum/0/down", "better/0.down_proj < sum/0/down first/0.down_proj",
        "stream/0 < stream/embed better/0.q_proj better/0.k_proj better/0.down_proj transient",
        "sum/1/attention < stream/0 pass 1 transient", "sum/1/down < stream/0 pass 1 transient",
        "first/1.q_proj < sum/1/attention", "better/1.q_proj < sum/1/attention first/1.q_proj",
        "first/1.k_proj < sum/1/attention", "better/1.k_proj < sum/1/attention first/1.k_proj",
        "first/1.down_proj < sum/1/down", "better/1.down_proj < sum/1/down first/1.down_proj",
        "write < better/0.q_proj better/0.k_proj better/0.down_proj better/1.q_proj better/1.k_proj better/1.down_proj",
        "score < write",
      ])
  }

  /// Hidden states do not depend on masks, and factors are kept.
  @Test func theDenseGraph() throws {
    let graph = try graph(Self.dense, blocks: 2)
    let stream = lines(graph).filter { $0.hasPrefix("stream") || $0.hasPrefix("sum") }
    #expect(
      stream == [
        "stream/embed < words transient", "sum/0/attention < stream/embed pass 0",
        "sum/0/down < stream/embed pass 0",
        "stream/0 < stream/embed pass 0 transient", "sum/1/attention < stream/0 pass 1",
        "sum/1/down < stream/0 pass 1",
      ])
  }

  @Test(arguments: [
    (pruned, 3, [1, 3, 6, 9, 9, 1, 1]), (pruned, 1, [1, 1, 2, 3, 3, 1, 1]),
    (dense, 5, [1, 5, 10, 15, 15, 1, 1]),
    // A stage that only looks at weights needs no calibration.
    (dense.replacing("- first\n  - better", with: "- first: {blind: true}"), 3, [0, 0, 0, 9, 1, 1]),
    ("  - first: {blind: true, targets: q_proj}", 4, [4]),
    // Blocks after the last one whose factors are read do not stream.
    (dense.replacing("first", with: "first: {targets: layers.1.}"), 5, [1, 2, 2, 3, 3, 1, 1]),
    (pruned.replacing("first", with: "first: {targets: down}"), 3, [1, 3, 3, 3, 3, 1, 1]),
    (
      dense.replacing(
        "first\n  - better", with: "first: {targets: q_}\n  - first: {id: b, targets: down}\n  - better"), 2,
      [1, 2, 4, 2, 2, 4, 1, 1]
    ),
    (pruned.replacing("score", with: "score: {tasks: t}"), 1, [1, 1, 2, 3, 3, 1, 0]),
    (pruned.replacing("write\n  - score", with: "write\n  - write: {id: w}"), 1, [1, 1, 2, 3, 3, 1, 1]),
  ])
  func countsOfUnits(stages: String, blocks: Int, expected: [Int]) throws {
    let graph = try graph(stages, blocks: blocks)
    #expect(expected.indices.map { entry in graph.units.filter { $0.entry == entry }.count } == expected)
    #expect(graph.units.count == expected.reduce(0, +))
    #expect(Set(graph.units.map(\.id)).count == graph.units.count)
    for (index, unit) in graph.units.enumerated() {
      #expect(unit.inputs.allSatisfy { $0 < index }, "an input of \(unit.id) comes later")
      #expect(Set(unit.inputs).count == unit.inputs.count)
      #expect(graph.index(of: unit.id) == index)
      #expect(graph.readers[index] == graph.units.indices.filter { graph.units[$0].inputs.contains(index) })
      // A transient unit without readers would never be deleted.
      #expect(!unit.isTransient || !graph.readers[index].isEmpty)
    }
  }

  @Test(arguments: [
    (pruned, true, "pruned"), (dense, false, "dense"),
    (pruned.replacing("sum", with: "sum: {keep: true}"), false, "asked"),
    (dense.replacing("sum", with: "sum: {keep: true}"), false, "asked"),
  ])
  func factorsStayWhereTheyCanBeUsedAgain(stages: String, isTransient: Bool, why: String) throws {
    let factors = try graph(stages).units.filter { $0.kind == .factor }
    #expect(factors.count == 6 && factors.allSatisfy { $0.isTransient == isTransient }, "\(why)")
  }

  @Test func unitsKnowTheirTensors() throws {
    let graph = try graph(Self.pruned)
    var checkpoint = ProbeBench.checkpoint
    checkpoint.blocks = 3
    func tensors(_ id: String) throws -> [String] {
      graph.units[try #require(graph.index(of: id))].tensors.names(in: ProbeBench.outline(checkpoint))
    }
    #expect(try tensors("words") == [])
    #expect(try tensors("stream/embed") == ["model.embed_tokens.weight"])
    #expect(
      try tensors("sum/1/down").count == 9 && tensors("sum/1/down").allSatisfy { $0.contains("layers.1.") })
    #expect(try tensors("stream/1") == tensors("sum/1/down"))
    #expect(try tensors("better/model.layers.2.mlp.down_proj") == ["model.layers.2.mlp.down_proj.weight"])
    #expect(try tensors("write").count == 3 + 3 * 9)
  }

  @Test(arguments: [
    (
      pruned.replacing("  - sum\n", with: ""),
      "the recipe needs `- sum`: a later stage reads the Gram matrices."
    ),
    (
      pruned.replacing("  - stream\n", with: ""),
      "the recipe needs `- stream`: factors are made from activations."
    ),
    (
      pruned.replacing(start, with: ""),
      "the recipe needs `- words`: activations come from calibration text."
    ),
    (
      pruned.replacing("- better", with: "- first: {id: b}"),
      "both first and b make the mask of model.layers.0.self_attn.q_proj; give their targets and ignore lists that do not overlap."
    ),
    (
      pruned.replacing("- better", with: "- first: {id: b, targets: layers.2.mlp}"),
      "both first and b make the mask of model.layers.2.mlp.down_proj; give their targets and ignore lists that do not overlap."
    ),
    (
      pruned.replacing("- first\n  - better", with: "- better\n  - first"),
      "the stage first must come before better, which changes the mask that it makes."
    ),
    (
      pruned.replacing("- sum\n  - first", with: "- first\n  - sum"),
      "the stage sum must come before first: text, then activations, then masks, then the whole model."
    ),
    (
      "  - stream\n" + start + body,
      "the stage words must come before stream: text, then activations, then masks, then the whole model."
    ),
    (
      pruned.replacing("- better\n  - write", with: "- write\n  - better"),
      "the stage better must come before write: text, then activations, then masks, then the whole model."
    ),
    (
      pruned.replacing("- write\n  - score", with: "- score\n  - write"),
      "the stage write must come before score: text, then activations, then masks, then the whole model."
    ),
    (
      pruned.replacing("  - write\n", with: ""),
      "the recipe needs `- write`: the stage score reads the pruned model."
    ),
    (
      pruned.replacing("- first", with: "- first: {targets: nothing}"),
      "no stage of the recipe prunes a matrix; add `- first`, or check the targets."
    ),
    (start + "  - write", "no stage of the recipe prunes a matrix; add `- first`, or check the targets."),
    (
      pruned.replacing("- sum", with: "- sum\n  - sum: {id: other}"),
      "a recipe has one stage that makes factors; this one has sum and other."
    ),
    (
      pruned.replacing("- stream", with: "- stream\n  - stream: {id: other}"),
      "a recipe has one stage that streams the model; this one has stream and other."
    ),
  ])
  func stagesThatDoNotFitTogetherAreRefused(stages: String, expected: String) throws {
    let error = failure { _ = try graph(stages) }
    #expect(error?.code == .usage && error?.description == expected)
  }

  /// A kind of artifact that matrix stages cannot read is an error.
  @Test func stagesReadOnlyWhatTheyGet() throws {
    struct Curious: MatrixStage {
      let reads: Set<ArtifactKind> = [.mask, .hidden, .tokens]
      func applies(to matrix: ModelOutline.Matrix) -> Bool { true }
      func run(_ unit: UnitContext) throws -> MatrixReport { MatrixReport() }
    }
    let registry = StageRegistry(
      Probe.registry.stages + [
        StageDescriptor(name: "curious", summary: "Test: reads too much.", revision: 1) { _ in
          .matrix(Curious())
        }
      ])
    let recipe = try Recipe(
      text: "stages:\n\(Self.pruned.replacing("better", with: "curious"))\n", source: "r", registry: registry)
    let error = failure { _ = try UnitGraph(recipe: recipe, model: ProbeBench.outline()) }
    #expect(error?.code == .usage)
    #expect(
      error?.message
        == "the stage curious reads hidden and tokens; a stage that works on matrices can read factor, mask and allocation."
    )
  }

  /// A refining stage skips matrices without a mask.
  @Test func refiningFollowsTheMasks() throws {
    let graph = try graph(Self.pruned.replacing("- first", with: "- first: {targets: q_proj}"), blocks: 1)
    #expect(
      graph.units.filter { $0.kind == .mask }.map(\.id) == [
        "first/model.layers.0.self_attn.q_proj", "better/model.layers.0.self_attn.q_proj",
      ])
  }
}
