import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierPipeline

@Suite struct CoverageTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  private func coverage(_ mixture: MixtureCheckpoint, _ stages: String? = nil) throws -> Coverage {
    let model = folder.path + "/model"
    try Folder.remove(model)
    try mixture.write(to: model)
    let graph = try stages.map {
      try UnitGraph(
        recipe: Recipe(text: "stages:\n" + $0, source: "r", registry: Probe.registry),
        model: mixture.outline)
    }
    return Coverage(try Checkpoint(folder: model), mixture.outline, graph: graph)
  }

  private func lines(_ parts: [Coverage.Part]?) -> [String] {
    parts?.map { "\($0.name) \($0.count) \($0.parameters)" } ?? []
  }

  private static let down = 2 * 4 * 16 * 8

  /// Every parameter is counted exactly once, for any recipe and any layout of experts.
  @Test(arguments: [false, true], ["model", "q_proj", "experts.3.", "layers.1.mlp"])
  func everythingIsCountedOnce(isStacked: Bool, targets: String) throws {
    var mixture = MixtureCheckpoint()
    mixture.isStacked = isStacked
    mixture.others = [("extra.weight", [3, 5])]
    let coverage = try coverage(mixture, "  - first: {blind: true, targets: \(targets)}\n  - write\n")
    let parts = (coverage.pruned ?? []) + coverage.left + coverage.fixed + coverage.unused
    #expect(parts.reduce(0) { $0 + $1.parameters } == coverage.parameters)
    let all = mixture.outline.blocks.flatMap(\.tensors.values) + mixture.outline.tensors.values + [[3, 5]]
    #expect(coverage.parameters == all.reduce(0) { $0 + $1.reduce(1, *) } && coverage.tensors == all.count)
    let pruned = mixture.outline.matrices.filter { $0.module.contains(targets) }
    #expect(coverage.pruned?.reduce(0) { $0 + $1.count } == pruned.count)
    #expect(coverage.pruned?.reduce(0) { $0 + $1.parameters } == pruned.reduce(0) { $0 + $1.parameters })
    #expect(coverage.left.reduce(0) { $0 + $1.count } == mixture.outline.matrices.count - pruned.count)
    #expect(Coverage(json: coverage.json) == coverage)
  }

  @Test func matricesThatAreLeftAreNamed() throws {
    let mixture = MixtureCheckpoint()
    let coverage = try coverage(
      mixture, "  - first: {blind: true, targets: [down_proj, layers.0.self_attn, experts.1.up]}\n  - write\n"
    )
    #expect(
      coverage.left.map(\.name) == [
        "model.layers.*.mlp.experts.*.gate_proj", "model.layers.*.mlp.experts.*.up_proj",
        "model.layers.1.self_attn.o_proj", "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.k_proj", "model.layers.1.self_attn.v_proj",
      ])
    // If a whole kind is left, its members are not listed.
    #expect(coverage.left[0].members.isEmpty && coverage.left[1].members.count == 6)
    #expect(coverage.left[1].members.allSatisfy { !$0.contains("experts.1.") })
    #expect(coverage.left[2].members == ["model.layers.1.self_attn.o_proj"])
    #expect(
      lines(coverage.pruned).first == "model.layers.*.mlp.experts.*.down_proj 8 \(Self.down)")
  }

  /// Without a recipe, coverage says what could be pruned.
  @Test func kindsThatAreNeverPruned() throws {
    let coverage = try coverage(MixtureCheckpoint())
    #expect(coverage.pruned == nil && coverage.left.count == 7 && coverage.unused.isEmpty)
    #expect(
      lines(coverage.fixed) == [
        "lm_head.weight 1 4160", "model.embed_tokens.weight 1 4160", "model.layers.*.mlp.gate.weight 2 128",
        "model.layers.*.input_layernorm.weight 2 32", "model.layers.*.post_attention_layernorm.weight 2 32",
        "model.norm.weight 1 16", "model.layers.*.self_attn.k_norm.weight 2 8",
        "model.layers.*.self_attn.q_norm.weight 2 8",
      ])
  }

  @Test func whatTheModelDoesNotKnowIsTold() throws {
    var mixture = MixtureCheckpoint()
    mixture.others = [
      ("model.layers.1.mlp.shared.weight", [4, 16]), ("model.layers.0.mlp.stack", [2, 4, 16]),
      ("model.layers.0.self_attn.rotary_emb.inv_freq", [4]),
      ("model.layers.1.self_attn.rotary_emb.inv_freq", [4]), ("model.layers.2.mtp.weight", [4, 16]),
      ("model.layers.2.norm", [4]), ("vision.blocks.0.w", [4, 4, 2, 2]), ("vision.blocks.1.w", [4, 4]),
      ("scale", [2]),
    ]
    let coverage = try coverage(mixture)
    #expect(coverage.missed.map(\.name) == ["model.layers.0.mlp.stack", "model.layers.1.mlp.shared.weight"])
    #expect(coverage.missed.map(\.shape) == [[2, 4, 16], [4, 16]])
    #expect(coverage.missed.map(\.parameters) == [128, 64])
    #expect(
      lines(coverage.unused) == [
        "vision 2 80", "model.layers.2 2 68", "model.layers.*.self_attn.rotary_emb 2 8", "scale 1 2",
      ])
    #expect(Coverage(json: coverage.json) == coverage)
    #expect(Coverage(json: ["tensors": 3]) == nil && Coverage(json: .null) == nil)
  }

  @Test func plansAndRunsTell() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    let plan = try Planner.plan(job)
    #expect(plan.coverage.pruned?.reduce(0) { $0 + $1.count } == 6)
    // The outline of the bench has no gate and up projections.
    #expect(
      plan.coverage.fixed.contains { $0.name == "model.layers.*.mlp.gate_proj.weight" && $0.count == 2 })
    try bench.run(job)
    #expect(try RunReport(work: job.work).history.coverage == plan.coverage)
  }
}
