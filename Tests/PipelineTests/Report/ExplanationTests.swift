import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierPipeline

/// `explain`: what a unit was made from, and what changed.
@Suite struct ExplanationTests {
  private let bench: ProbeBench
  private let mask = "better/model.layers.1.mlp.down_proj"

  init() throws { bench = try ProbeBench() }

  private func run(_ overrides: [String] = [], output: String = "out") throws -> String {
    let job = try bench.job(ProbeBench.dense, overrides: overrides, output: output)
    _ = try bench.run(job)
    return job.work
  }

  @Test func aFirstRunHasNothingToCompareWith() throws {
    let work = try run()
    for entry in try RunHistory(work: work).entries {
      let explanation = try Explanation(work: work, unit: entry.unit)
      #expect(explanation.manifest.key == entry.manifest.key && explanation.wasMade)
      #expect(
        explanation.previous == nil && explanation.differences.isEmpty && explanation.causes.isEmpty)
    }
    // Hidden states are deleted, masks are kept.
    #expect(try !Explanation(work: work, unit: "stream/0").isPresent)
    #expect(try Explanation(work: work, unit: mask).isPresent)
    _ = try run()
    #expect(try !Explanation(work: work, unit: mask).wasMade)
  }

  @Test func aChangedParameterIsNamed() throws {
    let before = try Explanation(work: run(), unit: mask).manifest.key
    let work = try run(["better.rounds=9"], output: "other")
    let explanation = try Explanation(work: work, unit: mask)
    #expect(explanation.previous?.key == before && explanation.wasMade && explanation.causes.isEmpty)
    #expect(explanation.differences.map(\.component) == ["parameters.rounds"])
    #expect(explanation.differences.map(\.before) == [3] && explanation.differences.map(\.after) == [9])
    // Units that do not depend on it are unchanged.
    let first = try Explanation(work: work, unit: "first/model.layers.1.mlp.down_proj")
    #expect(first.previous == nil && !first.wasMade)
    // The artifact is compared with the one made last before it.
    _ = try run(["better.rounds=5"], output: "third")
    #expect(try Explanation(work: work, unit: mask).differences.map(\.before) == [9])
  }

  /// A changed text changes a mask through hidden states and factors; the cause is named once.
  @Test func theRootOfAChangeIsNamed() throws {
    _ = try run()
    try Probe.write("twice upon a time", to: bench.corpus)
    let work = try run(output: "other")
    let explanation = try Explanation(work: work, unit: mask)
    #expect(
      explanation.differences.map(\.component) == [
        "inputs.factor block 1 site 1", "inputs.mask model.layers.1.mlp.down_proj.weight",
      ])
    #expect(
      explanation.differences.map(\.input) == ["sum/1/down", "first/model.layers.1.mlp.down_proj"])
    #expect(explanation.causes.map(\.unit) == ["words"])
    #expect(explanation.causes.flatMap(\.differences).map(\.component) == ["files.corpus"])
  }

  @Test func changedTensorsAndRevisionsAreNamed() throws {
    _ = try run()
    var checkpoint = ProbeBench.checkpoint
    checkpoint.edit = { name, values in if name.contains("layers.1.mlp.down_proj") { values[0] += 1 } }
    try checkpoint.write(to: bench.model)
    let work = try run(output: "other")
    let first = try Explanation(work: work, unit: "first/model.layers.1.mlp.down_proj")
    #expect(first.differences.map(\.component).contains("tensors"))
    #expect(try Explanation(work: work, unit: "stream/0").previous == nil)
    try Probe.$betterRevision.withValue(2) { _ = try run(output: "third") }
    let better = try Explanation(work: work, unit: mask)
    #expect(better.differences.map(\.component) == ["revision"] && better.differences.map(\.after) == [2])
  }

  @Test func whatTheRunDoesNotHaveIsTold() throws {
    let work = try run()
    for (unit, near) in [
      ("better/model.layers.7.x", "better/model.layers.0.self_attn.q_proj"), ("x", "words"),
    ] {
      let error = failure { _ = try Explanation(work: work, unit: unit) }
      #expect(error?.code == .usage && error?.message.contains("has no unit \(unit)") == true)
      #expect(error?.message.contains(near) == true)
    }
  }
}
