import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierPipeline

/// The recipe as it took effect is a recipe that makes the same job.
@Suite struct RecipeTextTests {
  private func recipe(_ text: String, _ overrides: [String] = []) throws -> Recipe {
    try Recipe(text: text, source: "r.yaml", overrides: overrides, registry: Probe.registry)
  }

  /// The same stages, parameters and files when it is read again, and then the same text.
  private func expectSame(_ recipe: Recipe, _ place: SourceLocation = #_sourceLocation) throws {
    let again = try self.recipe(recipe.effectiveText)
    #expect(again.entries.map(\.id) == recipe.entries.map(\.id), sourceLocation: place)
    #expect(
      again.entries.map(\.descriptor.name) == recipe.entries.map(\.descriptor.name), sourceLocation: place)
    #expect(again.entries.map(\.key) == recipe.entries.map(\.key), sourceLocation: place)
    #expect(again.entries.map(\.files) == recipe.entries.map(\.files), sourceLocation: place)
    #expect(again.effectiveText == recipe.effectiveText, sourceLocation: place)
  }

  @Test func overridesAreInIt() throws {
    let recipe = try recipe(
      """
      stages:
        - words: {corpus: , samples: 4, length: 8, seed: 7, draw: consecutive}
        - stream: {scale: 1.5e0}
        - first: {share: 0.25, targets: [q_proj, "down"]}
        - better: {id: more, rounds: 9}
      """,
      ["words.corpus=/my texts/c.txt", "words.samples=2", "words.draw=", "first.targets=[k_proj, v_proj]"])
    #expect(
      recipe.effectiveText == """
        stages:
          - words:
              length: 8
              seed: 7
              corpus: "/my texts/c.txt"
              samples: 2
          - stream:
              scale: 1.5e0
          - first:
              share: 0.25
              targets: [k_proj, v_proj]
          - better:
              id: more
              rounds: 9

        """)
    try expectSame(recipe)
  }

  @Test(arguments: [
    "- a: b", "#", "'", "\"", "\\", "{x}", "[", "*", "&a", "!t", "a: b", "a #b", " a", "a ", "-", "--- ", "?",
    "true", "60", "1e3", "~x", "\u{2028}x\u{85}y", "a\u{0}b", "日本", "\u{1F333}", "tab\there",
    "two\nlines", "%", "@",
    "`", "|", ">",
    "0x10", "-5", "a,b", ",", "..", "=",
  ])
  func anyPathComesBack(path: String) throws {
    let recipe = try recipe(
      "stages: [{words: {length: 8}}, stream]", ["words.corpus=\(path)"])
    #expect(recipe.entries[0].files["corpus"] == path)
    try expectSame(recipe)
  }

  /// Random bytes of YAML's own alphabet, as paths and in lists.
  @Test func randomTextsComeBack() throws {
    var random = SeededRandom(seed: 77)
    let letters = Array("ab0.-_/ :#'\"\\,[]{}*&!|>%@`?~=+\té\n")
    for _ in 0..<400 {
      let path = String(
        (0..<Int.random(in: 1...9, using: &random)).map { _ in letters.randomElement(using: &random) ?? "a" })
      guard let recipe = try? recipe("stages: [{words: {length: 8}}, stream]", ["words.corpus=\(path)"])
      else { continue }
      try expectSame(recipe)
    }
  }

  /// In quotes a number is a text, and must stay one.
  @Test func quotedNumbersStayTexts() throws {
    let recipe = try recipe(
      "stages: [{words: {corpus: \"60\", length: 8}}, {first: {share: 0.5, targets: [\"7\", 'true', \"null\"]}}]"
    )
    try expectSame(recipe)
    #expect(recipe.effectiveText.contains("corpus: \"60\""))
  }
}
