import EspalierCore
import Testing

@testable import EspalierPipeline

@Suite struct ParametersTests {
  private func key(_ stage: String) throws -> String {
    let recipe = try Recipe(text: "stages:\n  - \(stage)\n", source: "r.yaml", registry: Probe.registry)
    return recipe.entries[0].key.text
  }

  /// Keys are sorted, with defaults, without paths and parameters that never change a result.
  @Test(arguments: [
    ("words: {corpus: c, length: 8}", #"{"draw":"random","length":8,"samples":2,"seed":null}"#),
    (
      "words: {seed: 0, draw: random, samples: 0_2, length: 8, corpus: other/d.txt}",
      #"{"draw":"random","length":8,"samples":2,"seed":0}"#
    ),
    ("stream", #"{"memory":1,"propagate":"pruned","scale":1.0}"#),
    ("stream: {codec: lz4}", #"{"memory":1,"propagate":"pruned","scale":1.0}"#),
    ("stream: {scale: 1, propagate: pruned, id: other}", #"{"memory":1,"propagate":"pruned","scale":1.0}"#),
    ("stream: {scale: 1.25, propagate: dense}", #"{"memory":1,"propagate":"dense","scale":1.25}"#),
    ("first", #"{"blind":false,"share":null,"targets":["model"]}"#),
    ("first: {share: 5e-1, targets: b}", #"{"blind":false,"share":0.5,"targets":["b"]}"#),
    ("first: {share: null, targets: ~, blind: }", #"{"blind":false,"share":null,"targets":["model"]}"#),
    ("score: {tasks: t.json}", "{}"),
  ])
  func keysHoldWhatDecidesResults(stage: String, expected: String) throws {
    #expect(try key(stage) == expected)
  }

  @Test func filesAreKeptBesideTheKey() throws {
    let recipe = try Recipe(
      text: "stages:\n  - words: {corpus: c, length: 8}\n  - score: {tasks: t}\n  - score: {id: none}\n",
      source: "r.yaml",
      registry: Probe.registry)
    #expect(recipe.entries.map(\.files) == [["corpus": "c"], ["tasks": "t"], [:]])
  }

  @Test func describingNeedsNoValues() {
    let shown = Words.descriptor.parameters.map {
      "\($0.name) | \($0.kind) | \($0.fallback ?? "-") | \($0.text)"
    }
    #expect(
      shown == [
        "corpus | file | - | The text.", "samples | whole number | 2 | Windows.",
        "length | whole number | - | Tokens of each.",
        "draw | random | consecutive | random | Where windows lie.",
        "seed | whole number | none | Of the draws.",
      ])
    let others = (Stream.descriptor.parameters + First.descriptor.parameters + Score.descriptor.parameters)
      .map { "\($0.name) \($0.kind) \($0.fallback ?? "-")" }
    #expect(
      others == [
        "propagate pruned | dense | sites pruned", "scale number 1.0", "memory whole number 1",
        "codec none | lz4 none",
        "share number none", "targets list of texts [model]", "blind true | false false", "tasks file none",
      ])
  }

  @Test func registriesFindStagesByName() {
    #expect(Probe.registry.names == ["words", "stream", "sum", "first", "better", "write", "score"])
    #expect(Probe.registry["sum"]?.name == "sum" && Probe.registry["Sum"] == nil)
  }

  /// A stage needs no type of its own: another descriptor of the same type is another stage.
  @Test func stagesAreValues() throws {
    let registry = StageRegistry(
      Probe.registry.stages + [
        StageDescriptor(name: "last", summary: "Test: as better.", revision: 4) { .matrix(Better(&$0)) }
      ])
    let recipe = try Recipe(
      text: "stages:\n  - better\n  - last: {rounds: 9}\n", source: "r", registry: registry)
    #expect(recipe.entries.map(\.descriptor.name) == ["better", "last"])
    #expect(recipe.entries.map(\.descriptor.revision) == [1, 4])
    #expect(recipe.stages(\.matrix).map(\.index) == [0, 1] && recipe.stages(\.source).isEmpty)
    #expect(registry.suggestion { $0.matrix?.makesMasks == false } == "one of `- better`, `- last`")
  }

  @Test(arguments: [
    ("sampels", "samples"), ("SAMPLES", "samples"), ("sam-ples", "samples"), ("sample_s", "samples"),
    ("lenght", "length"),
    ("x", nil), ("", nil), ("completely", nil),
  ])
  func namesNearEnoughAreSuggested(word: String, expected: String?) {
    #expect(nearest(word, in: ["samples", "length", "draw"]) == expected)
  }
}
