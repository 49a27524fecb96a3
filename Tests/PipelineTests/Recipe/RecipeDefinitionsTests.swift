import EspalierCore
import EspalierTestSupport
import Foundation
import Testing

@testable import EspalierPipeline

/// `${NAME}` and `--define NAME=VALUE`.
@Suite struct RecipeDefinitionsTests {
  private func recipe(_ text: String, _ definitions: [String], _ overrides: [String] = []) throws -> Recipe {
    try Recipe(
      text: text, source: "r.yaml", overrides: overrides, definitions: definitions, registry: Probe.registry)
  }

  private func message(_ text: String, _ definitions: [String], _ overrides: [String] = []) -> String {
    failure { _ = try recipe(text, definitions, overrides) }?.description ?? "no error"
  }

  private func first(_ value: String, _ definitions: String...) throws -> First {
    let recipe = try recipe("stages:\n  - first: {targets: [\(value)]}\n", definitions)
    return try #require(recipe.entries[0].stage as? First)
  }

  /// In lists and groups on one line, in blocks, with quotes and without.
  @Test func namesAreReplacedWhereverValuesStand() throws {
    let text = """
      # ${THIS} is a comment.
      stages:
        - words: {corpus: ${TEXT}, samples: ${N}, length: "${N}"}
        - ${SECOND}
        - sum:
            keep: ${KEEP}
        - first: {share: 0.${N}, targets: [${A}, "x-${A}", 'y${A}.${A}']}
        - better: {id: "${A}2", targets: ${LIST}}

      """
    let recipe = try recipe(
      text, ["TEXT=a b.txt", "N=12", "SECOND=stream", "KEEP=true", "A=q", "LIST=[k, v]"])
    let words = try #require(recipe.entries[0].stage as? Words)
    #expect(words.corpus == "a b.txt" && words.shape == (12, 12))
    #expect(recipe.entries.map(\.id) == ["words", "stream", "sum", "first", "q2"])
    let first = try #require(recipe.entries[3].stage as? First)
    #expect(first.share == 0.12 && first.targets == ["q", "x-q", "yq.q"])
    #expect((recipe.entries[4].stage as? Better)?.targets == ["k", "v"])
  }

  @Test func twoDollarsAreNoName() throws {
    #expect(try first("\"$${A}\"").targets == ["${A}"])
    #expect(try first("$${A}, ${A}", "A=1").targets == ["${A}", "1"])
    #expect(try first("\"$$${A} $A $ $5 a$\"").targets == ["$${A} $A $ $5 a$"])
    // What a name stands for is not read again.
    #expect(try first("${A}", "A=${B}$${C}").targets == ["${B}$${C}"])
  }

  /// A recipe must not depend on where it runs.
  @Test func theEnvironmentDefinesNothing() {
    setenv("ESPALIER_TEST_NAME", "environment", 1)
    defer { unsetenv("ESPALIER_TEST_NAME") }
    #expect(
      message("stages:\n  - first: {targets: ${ESPALIER_TEST_NAME}}\n", [])
        == "r.yaml:2:13: ${ESPALIER_TEST_NAME} is not defined; give --define ESPALIER_TEST_NAME=VALUE.")
  }

  @Test func anEmptyValueIsTheDefault() throws {
    #expect(
      try #require(recipe("stages: [{first: {share: ${S}}}]", ["S="]).entries[0].stage as? First).share == nil
    )
  }

  /// The names in a value that was overridden are not needed.
  @Test func overriddenValuesNeedNoDefinitions() throws {
    let text = "stages:\n  - words: {corpus: ${TEXT}, length: 8}\n"
    let words = try #require(
      recipe(text, [], ["words.corpus=${plain"]).entries[0].stage as? Words)
    #expect(words.corpus == "${plain")
  }

  /// One mistake each; the whole message.
  @Test(arguments: [
    ("{corpus: ${TEXT}, length: 8}", [], "r.yaml:2:13: ${TEXT} is not defined; give --define TEXT=VALUE."),
    (
      "{corpus: ${TEXT}, length: 8}", ["TEXTS=a", "TEXT2=b"],
      "the recipe has 3 mistakes:\n"
        + "  r.yaml:2:13: ${TEXT} is not defined; give --define TEXT=VALUE. Did you mean ${TEXT2}?\n"
        + "  --define TEXT2: the recipe has no ${TEXT2}; it has: ${TEXT}.\n"
        + "  --define TEXTS: the recipe has no ${TEXTS}; it has: ${TEXT}."
    ),
    (
      "{corpus: c, length: ${N}}", ["N=eight"],
      "r.yaml:2:24: words.length must be a whole number from 4 to 100000, not \"eight\"."
    ),
    ("{corpus: c, length: 8}", ["N=1"], "--define N: the recipe has no ${N}; it has none."),
    (
      "{corpus: c, length: 8}", ["N"],
      "--define N: write it as NAME=VALUE; a name has letters, digits and \"_\"."
    ),
    (
      "{corpus: c, length: 8}", ["2=1"],
      "--define 2=1: write it as NAME=VALUE; a name has letters, digits and \"_\"."
    ),
    (
      "{corpus: \"${a b}\", length: 8}", [],
      "r.yaml:2:13: write ${NAME} with a name of letters, digits and \"_\"; for the characters \"${\" write $${."
    ),
    (
      "{corpus: \"x${\", length: 8}", [],
      "r.yaml:2:13: write ${NAME} with a name of letters, digits and \"_\"; for the characters \"${\" write $${."
    ),
    (
      "{${K}: 1, corpus: c, length: 8}", ["K=seed"],
      "r.yaml:2:13: words has no parameter \"${K}\". It has: corpus, samples, length, draw, seed. See `espalier stages words`."
    ),
    // The mistake after a name has its own place.
    (
      "{corpus: ${TEXT}, length: 3}", ["TEXT=a"],
      "r.yaml:2:30: words.length must be a whole number from 4 to 100000, not \"3\"."
    ),
  ])
  func aMistakeIsToldWithItsPlace(words: String, definitions: [String], expected: String) {
    #expect(message("stages:\n  - words: \(words)\n", definitions) == expected)
  }

  @Test func mutatedNamesNeverTrap() {
    var random = SeededRandom(seed: 5)
    let pieces = [
      "$", "{", "}", "$$", "${", "A", "_", "1", " ", "\u{E000}", "\u{E001}", "\u{301}", "\"", ",", "é",
    ]
    for _ in 0..<3000 {
      let text = (0..<Int.random(in: 1...12, using: &random)).map { _ in
        pieces.randomElement(using: &random) ?? ""
      }.joined()
      let shown = message("stages: [{first: {targets: [\(text)]}}]", ["A=b"])
      #expect(shown == "no error" || shown.contains("r.yaml") || shown.hasPrefix("--define A"))
    }
  }
}
