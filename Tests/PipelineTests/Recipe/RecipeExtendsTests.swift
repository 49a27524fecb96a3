import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierPipeline

/// `extends: FILE`.
@Suite struct RecipeExtendsTests {
  private let folder: TemporaryFolder

  init() throws {
    folder = try TemporaryFolder()
    try Folder.create(folder.path + "/shared")
    try write(
      "shared/base.yaml",
      """
      stages:
        - words: {corpus: c.txt, length: 8, samples: 3}
        - stream
        - sum
        - first: {share: 0.25, targets: [a]}
        - better: {id: more, rounds: 2}
        - write

      """)
  }

  private func write(_ name: String, _ text: String) throws {
    try Folder.writeAtomically(Array(text.utf8), to: folder.path + "/" + name)
  }

  private func recipe(_ text: String, _ overrides: [String] = []) throws -> Recipe {
    try write("r.yaml", text)
    return try Recipe(path: folder.path + "/r.yaml", overrides: overrides, registry: Probe.registry)
  }

  /// The message without the test's folder.
  private func message(_ text: String) -> String {
    let error = failure { _ = try recipe(text) }
    #expect(error == nil || error?.code == .usage || error?.code == .noInput)
    return error?.description.replacing(folder.path + "/", with: "") ?? "no error"
  }

  @Test func aRecipeThatOnlyExtendsIsTheOther() throws {
    let (base, same) = try (
      Recipe(path: folder.path + "/shared/base.yaml", registry: Probe.registry),
      recipe("extends: shared/base.yaml\n")
    )
    #expect(same.entries.map(\.id) == base.entries.map(\.id))
    #expect(same.entries.map(\.key) == base.entries.map(\.key))
    #expect(same.entries.map(\.files) == base.entries.map(\.files))
  }

  @Test func parametersAreOverriddenKeyByKey() throws {
    let recipe = try recipe(
      """
      extends: shared/base.yaml
      stages:
        - first: {share: 0.75}
        - better: {id: more, targets: [q]}
        - words: {samples: }

      """)
    #expect(recipe.entries.map(\.id) == ["words", "stream", "sum", "first", "more", "write"])
    let first = try #require(recipe.entries[3].stage as? First)
    #expect(first.share == 0.75 && first.targets == ["a"])
    let more = try #require(recipe.entries[4].stage as? Better)
    #expect(more.rounds == 2 && more.targets == ["q"])
    // An empty value is the default.
    #expect((recipe.entries[0].stage as? Words)?.shape.samples == 2)
  }

  /// `--set` wins over both files, under the ids of either.
  @Test func theCommandLineComesLast() throws {
    let recipe = try recipe(
      "extends: shared/base.yaml\nstages:\n  - first: {share: 0.75}\n",
      ["first.share=0.5", "more.rounds=9"])
    #expect((recipe.entries[3].stage as? First)?.share == 0.5)
    #expect((recipe.entries[4].stage as? Better)?.rounds == 9)
  }

  /// A stage is named by its id, as in `--set`.
  @Test func anIdNamesAStageOfTheOtherRecipe() throws {
    let recipe = try recipe("extends: shared/base.yaml\nstages:\n  - more: {rounds: 7}\n")
    #expect(recipe.entries.map(\.id) == ["words", "stream", "sum", "first", "more", "write"])
    let more = try #require(recipe.entries[4].stage as? Better)
    #expect(recipe.entries[4].descriptor.name == "better" && more.rounds == 7)
  }

  /// Refiners come before the output, whose role is later.
  @Test func newStagesComeBehindThoseOfTheirRole() throws {
    let recipe = try recipe(
      "extends: shared/base.yaml\nstages:\n  - score\n  - better: {id: last, rounds: 1}\n  - better: {id: end}\n"
    )
    #expect(
      recipe.entries.map(\.id) == [
        "words", "stream", "sum", "first", "more", "last", "end", "write", "score",
      ])
  }

  @Test func anotherStageUnderTheSameIdTakesItsPlace() throws {
    let recipe = try recipe(
      "extends: shared/base.yaml\nstages:\n  - first: {id: more, share: 0.5}\n")
    #expect(recipe.entries.map(\.id) == ["words", "stream", "sum", "first", "more", "write"])
    let more = try #require(recipe.entries[4].stage as? First)
    #expect(more.share == 0.5 && more.targets == ["model"])
  }

  /// Each file is found from the folder of the one that names it.
  @Test func severalRecipesExtendEachOther() throws {
    try write("shared/middle.yaml", "extends: base.yaml\nstages:\n  - first: {share: 0.5}\n")
    let recipe = try recipe("extends: shared/middle.yaml\nstages:\n  - first: {targets: [z]}\n")
    let first = try #require(recipe.entries[3].stage as? First)
    #expect(first.share == 0.5 && first.targets == ["z"])
  }

  /// The recipe beside an output has no need of other files and of definitions.
  @Test func theEffectiveRecipeStandsAlone() throws {
    try write(
      "r.yaml", "extends: shared/base.yaml\nstages:\n  - first: {targets: [${A}, '$${A}'], share: ${S}}\n")
    let recipe = try Recipe(
      path: folder.path + "/r.yaml", definitions: ["A=q ${x}", "S=0.75"], registry: Probe.registry)
    let again = try Recipe(text: recipe.effectiveText, source: "r", registry: Probe.registry)
    #expect(again.entries.map(\.key) == recipe.entries.map(\.key))
    #expect(again.entries.map(\.id) == recipe.entries.map(\.id))
    #expect((again.entries[3].stage as? First)?.targets == ["q ${x}", "${A}"])
  }

  /// One mistake each; the whole message.
  @Test(arguments: [
    (
      "extends: shared/none.yaml", "r.yaml:1:10: shared/none.yaml: the recipe cannot be read: "
    ),
    ("extends: shared", "r.yaml:1:10: shared: the recipe cannot be read: this is a folder, not a file."),
    (
      "extends: [a, b]",
      "r.yaml:1:10: extends must be the path of a recipe, from the folder of this one, not a list."
    ),
    (
      "extends:\nstages: [write]",
      "r.yaml:1:9: extends must be the path of a recipe, from the folder of this one, not \"\"."
    ),
    ("extends: r.yaml", "r.yaml:1:10: the recipes extend each other in a circle: r.yaml, r.yaml."),
    ("extends: shared/../r.yaml", "r.yaml:1:10: the recipes extend each other in a circle: "),
    (
      "extends: shared/base.yaml\nstages:\n  - mor: {rounds: 7}",
      "r.yaml:3:5: there is no stage \"mor\", neither here nor in the recipe that this one extends, "
        + "which has: words, stream, sum, first, more, write. Did you mean more?"
    ),
    (
      "extends: shared/base.yaml\nstages:\n  - first: {shar: 1}",
      "r.yaml:3:13: first has no parameter \"shar\". Did you mean share?"
    ),
    (
      "extends: shared/base.yaml\nstages:\n  - first\n  - first",
      "r.yaml:4:5: the stage first occurs twice; give one of them an id: of its own."
    ),
    (
      "extends: shared/bad.yaml",
      "r.yaml:1:10: shared/bad.yaml:2:16: this is not valid YAML: found undefined alias."
    ),
    (
      "extends: shared/worse.yaml",
      "shared/worse.yaml:2:13: first.share must be a number from 0.0 to 1.0, not \"7\"."
    ),
    (
      "base: x\nstages: [write]",
      "r.yaml:1:1: a recipe has no key \"base\"; it has: extends, stages, plugins."
    ),
  ])
  func aMistakeIsToldWithItsPlace(text: String, expected: String) throws {
    try write("shared/bad.yaml", "stages:\n  - words: {a: *b}\n")
    try write("shared/worse.yaml", "stages:\n  - first: {share: 7}\n")
    #expect(message(text + "\n").hasPrefix(expected), "\(message(text + "\n"))")
  }

  @Test func circlesOfSeveralAreFound() throws {
    try write("a.yaml", "extends: b.yaml\n")
    try write("b.yaml", "extends: r.yaml\n")
    #expect(
      message("extends: a.yaml\n")
        == "r.yaml:1:10: a.yaml:1:10: b.yaml:1:10: the recipes extend each other in a circle: r.yaml, a.yaml, b.yaml, r.yaml."
    )
  }

  @Test func chainsAreBounded() throws {
    try write("8.yaml", "stages: [write]\n")
    for step in (1...7).reversed() { try write("\(step).yaml", "extends: \(step + 1).yaml\n") }
    #expect(message("extends: 2.yaml\n") == "no error")
    #expect(message("extends: 1.yaml\n").contains("more than 8 recipes extend each other"))
  }
}
