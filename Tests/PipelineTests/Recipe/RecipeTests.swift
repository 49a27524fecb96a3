import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierPipeline

@Suite struct RecipeTests {
  private func recipe(_ text: String, _ overrides: String...) throws -> Recipe {
    try Recipe(text: text, source: "r.yaml", overrides: overrides, registry: Probe.registry)
  }

  private func message(_ text: String, _ overrides: [String] = []) -> String {
    let error = failure {
      _ = try Recipe(text: text, source: "r.yaml", overrides: overrides, registry: Probe.registry)
    }
    #expect(error?.code == .usage || error == nil)
    return error?.description ?? "no error"
  }

  private static let words = "{corpus: c.txt, length: 8}"

  @Test func stagesHaveTheirTypesIdsAndValues() throws {
    let recipe = try recipe(
      """
      # A comment.
      stages:
        - words: {corpus: "c.txt", samples: 1_000, length: 8, seed: 7}
        - stream: {scale: 1.5e0}
        - sum:
        - first:
            share: 0.25
            targets: [q_proj, "down"]
        - better: {targets: k_proj}
        - better: {id: more, rounds: 9}

      """)
    #expect(recipe.entries.map(\.id) == ["words", "stream", "sum", "first", "better", "more"])
    let words = try #require(recipe.entries[0].stage as? Words)
    #expect(words.corpus == "c.txt" && words.shape == (1000, 8) && words.seed == 7 && words.draw == .random)
    #expect((recipe.entries[1].stage as? Stream)?.scale == 1.5)
    let first = try #require(recipe.entries[3].stage as? First)
    #expect(first.share == 0.25 && first.targets == ["q_proj", "down"] && !first.blind)
    // A single text is a list of one.
    #expect((recipe.entries[4].stage as? Better)?.targets == ["k_proj"])
    #expect((recipe.entries[5].stage as? Better)?.rounds == 9)
    #expect(recipe.entries[0].files == ["corpus": "c.txt"])
  }

  /// One mistake each; the whole message.
  @Test(arguments: [
    (
      "  - words: {corpus: c, length: 8, sampels: 3}",
      "r.yaml:2:35: words has no parameter \"sampels\". Did you mean samples? "
        + "It has: corpus, samples, length, draw, seed. See `espalier stages words`."
    ),
    (
      "  - words: {corpus: c, length: 8, zzz: 3}",
      "r.yaml:2:35: words has no parameter \"zzz\". It has: corpus, samples, length, draw, seed. See `espalier stages words`."
    ),
    (
      "  - words: {corpus: c, length: eight}",
      "r.yaml:2:24: words.length must be a whole number from 4 to 100000, not \"eight\"."
    ),
    (
      "  - words: {corpus: c, length: 3}",
      "r.yaml:2:24: words.length must be a whole number from 4 to 100000, not \"3\"."
    ),
    (
      "  - words: {corpus: c, length: 8.0}",
      "r.yaml:2:24: words.length must be a whole number from 4 to 100000, not \"8.0\"."
    ),
    (
      "  - words: {corpus: c, length: 99999999999999999999}",
      "r.yaml:2:24: words.length must be a whole number from 4 to 100000, not \"99999999999999999999\"."
    ),
    (
      "  - words: {corpus: c, length: '8'}",
      "r.yaml:2:24: words.length must be a whole number from 4 to 100000, not \"8\"."
    ),
    (
      "  - words: {corpus: c, length: [8]}",
      "r.yaml:2:24: words.length must be a whole number from 4 to 100000, not a list."
    ),
    (
      "  - words: {corpus: c, length: {a: 8}}",
      "r.yaml:2:24: words.length must be a whole number from 4 to 100000, not a group of keys."
    ),
    (
      "  - words: {corpus: c}",
      "r.yaml:2:5: words.length is missing: a whole number from 4 to 100000. Write it in the recipe or give --set words.length=VALUE."
    ),
    (
      "  - words: {corpus: c, length: ~}",
      "r.yaml:2:5: words.length is missing: a whole number from 4 to 100000. Write it in the recipe or give --set words.length=VALUE."
    ),
    (
      "  - words: {length: 8}",
      "r.yaml:2:5: words.corpus is missing: the path of a file. Write it in the recipe or give --set words.corpus=VALUE."
    ),
    (
      "  - words: {corpus: [c], length: 8}",
      "r.yaml:2:13: words.corpus must be the path of a file, not a list."
    ),
    (
      "  - words: {corpus: c, length: 8, draw: both}",
      "r.yaml:2:35: words.draw must be one of random, consecutive, not \"both\"."
    ),
    (
      "  - words: {corpus: c, length: 8, seed: -1}",
      "r.yaml:2:35: words.seed must be a whole number from 0 to 99, not \"-1\"."
    ),
    (
      "  - words: {corpus: c, length: 8, seed: 1, draw: consecutive}",
      "r.yaml:2:5: words: seed needs draw: random."
    ),
    (
      "  - stream: {scale: fast}", "r.yaml:2:14: stream.scale must be a number from 0.0 to 8.0, not \"fast\"."
    ),
    ("  - stream: {scale: \"1\"}", "r.yaml:2:14: stream.scale must be a number from 0.0 to 8.0, not \"1\"."),
    ("  - stream: {scale: nan}", "r.yaml:2:14: stream.scale must be a number from 0.0 to 8.0, not \"nan\"."),
    (
      "  - stream: {scale: 8.01}", "r.yaml:2:14: stream.scale must be a number from 0.0 to 8.0, not \"8.01\"."
    ),
    (
      "  - stream: {memory: 0}", "r.yaml:2:14: stream.memory must be a whole number of at least 1, not \"0\"."
    ),
    ("  - sum: {keep: yes}", "r.yaml:2:11: sum.keep must be true or false, not \"yes\"."),
    ("  - sum: {keep: 'true'}", "r.yaml:2:11: sum.keep must be true or false, not \"true\"."),
    ("  - first: {share: 2}", "r.yaml:2:13: first.share must be a number from 0.0 to 1.0, not \"2\"."),
    (
      "  - first: {targets: {a: b}}",
      "r.yaml:2:13: first.targets must be a list of texts, not a group of keys."
    ),
    ("  - first: {targets: [a, [b]]}", "r.yaml:2:13: first.targets must be a list of texts, not a list."),
    ("  - score: {tasks: []}", "r.yaml:2:13: score.tasks must be the path of a file, not a list."),
    (
      "  - secnd",
      "r.yaml:2:5: there is no stage \"secnd\". There are: words, stream, sum, first, better, write, score. See `espalier stages`."
    ),
    (
      "  - Beter: {rounds: 1}",
      "r.yaml:2:5: there is no stage \"Beter\". Did you mean better? "
        + "There are: words, stream, sum, first, better, write, score. See `espalier stages`."
    ),
    ("  - sum\n  - sum", "r.yaml:3:5: the stage sum occurs twice; give one of them an id: of its own."),
    (
      "  - better: {id: sum}\n  - sum",
      "r.yaml:3:5: the stage sum occurs twice; give one of them an id: of its own."
    ),
    (
      "  - better: {id: a/b}",
      "r.yaml:2:14: the id of better must be a word without \"/\", \".\" and \"=\", not \"a/b\"."
    ),
    (
      "  - better: {id: [a]}",
      "r.yaml:2:14: the id of better must be a word without \"/\", \".\" and \"=\", not a list."
    ),
    (
      "  - better: {id: }",
      "r.yaml:2:14: the id of better must be a word without \"/\", \".\" and \"=\", not \"\"."
    ),
    ("  - sum: keep", "r.yaml:2:5: the parameters of sum must be keys with values."),
    ("  - sum: [keep]", "r.yaml:2:5: the parameters of sum must be keys with values."),
    (
      "  - [sum]",
      "r.yaml:2:5: a stage is its name, or its name with parameters: `- swap` or `- swap: {maxSwaps: 100}`."
    ),
    (
      "  - {sum: , first: }",
      "r.yaml:2:5: a stage is its name, or its name with parameters: `- swap` or `- swap: {maxSwaps: 100}`."
    ),
    ("  - sum\nmodel: x", "r.yaml:3:1: a recipe has no key \"model\"; it has: extends, stages, plugins."),
    (
      "  - sum: {keep: true, keep: false}",
      "r.yaml:2:11: this is not valid YAML: the key keep occurs twice."
    ),
    ("  - sum\nstages: []", "r.yaml:1:1: this is not valid YAML: the key stages occurs twice."),
    ("  - sum: {keep: true", "r.yaml:3:1: this is not valid YAML: did not find expected ',' or '}'."),
    (
      "  - sum\n\t- first",
      "r.yaml:3:1: this is not valid YAML: found a tab character that violates indentation."
    ),
    ("  - sum: *nothing", "r.yaml:2:10: this is not valid YAML: found undefined alias."),
    ("  - sum\n---\na: b", "r.yaml:3:1: this is not valid YAML: but found another document."),
  ])
  func aMistakeIsToldWithItsPlace(stages: String, expected: String) {
    #expect(message("stages:\n" + stages + "\n") == expected)
  }

  @Test(arguments: [
    ("", "r.yaml:1:1: a recipe starts with `stages:` and a list of stages."),
    ("# nothing\n", "r.yaml:1:1: a recipe starts with `stages:` and a list of stages."),
    ("\n- sum\n", "r.yaml:2:1: a recipe starts with `stages:` and a list of stages."),
    ("  sum\n", "r.yaml:1:3: a recipe starts with `stages:` and a list of stages."),
    ("stages: sum\n", "r.yaml:1:9: stages must be a list."),
    ("stages: []\n", "r.yaml: the recipe has no stages."),
    ("steps: [sum]\n", "r.yaml:1:1: a recipe has no key \"steps\"; it has: extends, stages, plugins."),
    (
      "stages:\n  - sum\u{1}\n",
      "r.yaml:2:8: this is not valid YAML: control characters are not allowed."
    ),
  ])
  func wrongRootsAreTold(text: String, expected: String) {
    #expect(message(text) == expected)
  }

  @Test func allMistakesAreToldAtOnce() {
    let text = """
      stages:
        - words: {length: 2, sample: 3}
        - streem
        - sum
        - first: {share: 7, blind: 1}
        - sum
      more: 1

      """
    #expect(
      message(text, ["first.rounds=3", "second.x=1", "nonsense"]) == """
        the recipe has 11 mistakes:
          r.yaml:7:1: a recipe has no key "more"; it has: extends, stages, plugins.
          r.yaml:6:5: the stage sum occurs twice; give one of them an id: of its own.
          --set second.x=1: the recipe has no stage "second". It has: words, streem, sum, first, sum.
          --set nonsense: write it as STAGE.KEY=VALUE, for example swap.maxSwaps=100.
          r.yaml:2:5: words.corpus is missing: the path of a file. Write it in the recipe or give --set words.corpus=VALUE.
          r.yaml:2:13: words.length must be a whole number from 4 to 100000, not "2".
          r.yaml:2:24: words has no parameter "sample". Did you mean samples? It has: corpus, samples, length, draw, seed. See `espalier stages words`.
          r.yaml:3:5: there is no stage "streem". Did you mean stream? There are: words, stream, sum, first, better, write, score. See `espalier stages`.
          r.yaml:5:13: first.share must be a number from 0.0 to 1.0, not "7".
          r.yaml:5:23: first.blind must be true or false, not "1".
          --set first.rounds=3: first has no parameter "rounds". It has: share, targets, blind. See `espalier stages first`.
        """)
  }

  // MARK: - --set

  @Test func overridesWin() throws {
    let text =
      "stages:\n  - words: \(Self.words)\n  - first: {share: 0.5, targets: [a, b], blind: true}\n  - better: {id: more}\n"
    func entries(_ overrides: String...) throws -> (words: Words, first: First, more: Better) {
      let entries = try Recipe(text: text, source: "r", overrides: overrides, registry: Probe.registry)
        .entries
      return try (
        #require(entries[0].stage as? Words), #require(entries[1].stage as? First),
        #require(entries[2].stage as? Better)
      )
    }
    #expect(try entries().first.share == 0.5)
    #expect(try entries("first.share=0.75").first.share == 0.75)
    #expect(try entries("first.share=0.75", "first.share=1").first.share == 1)
    #expect(try entries("first.targets=[x, \"y z\"]").first.targets == ["x", "y z"])
    #expect(try entries("first.targets=[]").first.targets == [])
    #expect(try entries("first.targets=x").first.targets == ["x"])
    // An empty value sets the parameter to its default.
    #expect(try entries("first.share=").first.share == nil)
    #expect(try entries("first.targets=", "first.blind=").first.targets == ["model"])
    #expect(try !entries("first.blind=").first.blind)
    #expect(try entries("more.rounds=5").more.rounds == 5)
    // Paths are plain text, without quotes and YAML.
    #expect(try entries("words.corpus=/a b: {c}=d.#e").words.corpus == "/a b: {c}=d.#e")
  }

  @Test(arguments: [
    ("first", "--set first: write it as STAGE.KEY=VALUE, for example swap.maxSwaps=100."),
    ("first.share", "--set first.share: write it as STAGE.KEY=VALUE, for example swap.maxSwaps=100."),
    ("first=a.b", "--set first=a.b: write it as STAGE.KEY=VALUE, for example swap.maxSwaps=100."),
    ("", "--set : write it as STAGE.KEY=VALUE, for example swap.maxSwaps=100."),
    ("=", "--set =: write it as STAGE.KEY=VALUE, for example swap.maxSwaps=100."),
    (
      "fist.share=1",
      "--set fist.share=1: the recipe has no stage \"fist\". Did you mean first? It has: words, first."
    ),
    (
      "first.shar=1",
      "--set first.shar=1: first has no parameter \"shar\". Did you mean share? It has: share, targets, blind. See `espalier stages first`."
    ),
    (
      "first.share=half",
      "--set first.share=half: first.share must be a number from 0.0 to 1.0, not \"half\"."
    ),
    (
      "first.targets=[a, [b]]",
      "--set first.targets=[a, [b]]: first.targets must be a list of texts, not a list."
    ),
    ("first.share=[", "--set first.share=[: first.share must be a number from 0.0 to 1.0, not \"[\"."),
    (
      "first.id=x",
      "--set first.id=x: first has no parameter \"id\". It has: share, targets, blind. See `espalier stages first`."
    ),
    (
      "words.length=",
      "r.yaml:2:5: words.length is missing: a whole number from 4 to 100000. Write it in the recipe or give --set words.length=VALUE."
    ),
  ])
  func wrongOverridesAreTold(override: String, expected: String) {
    #expect(message("stages:\n  - words: \(Self.words)\n  - first\n", [override]) == expected)
  }

  // MARK: - Files and hostile texts

  @Test func recipesAreReadFromFiles() throws {
    let folder = try TemporaryFolder()
    let path = folder.path + "/r.yaml"
    try Probe.write("stages:\n  - sum\n", to: path)
    #expect(try Recipe(path: path, registry: Probe.registry).text == "stages:\n  - sum\n")
    for (bytes, expected) in [
      (Array("stages: [\"".utf8) + [0xFF, 0xFE], "\(path): the recipe is not valid UTF-8."),
      ([UInt8](repeating: 0x20, count: 1 << 20 + 1), "\(path): the recipe cannot be read: the file has"),
    ] {
      try File(writing: path, truncate: true).write(bytes, at: 0)
      let error = failure { _ = try Recipe(path: path, registry: Probe.registry) }
      #expect(error?.code == .usage && error?.description.hasPrefix(expected) == true)
    }
    for (path, code) in [(folder.path, EspalierError.Code.usage), (folder.path + "/none.yaml", .noInput)] {
      let error = failure { _ = try Recipe(path: path, registry: Probe.registry) }
      #expect(error?.code == code && error?.subject == path)
    }
  }

  @Test func deepAndExplodingRecipesAreRefused() {
    let deep = String(repeating: "[", count: 900)
    let bomb =
      "stages:\n  - first:\n      targets: [a, &a0 [x, x, x]"
      + (1...40).map { ", &a\($0) [*a\($0 - 1), *a\($0 - 1)]" }.joined() + "]\n"
    for text in [
      "stages: " + deep + String(repeating: "]", count: 900),
      "stages: " + String(repeating: "[", count: 100_000),
      "stages: " + String(repeating: "{a: ", count: 50_000), String(repeating: "- ", count: 50_000), bomb,
    ] {
      #expect(message(text).hasPrefix("r.yaml"))
    }
    // A few aliases are allowed.
    #expect(
      message("stages:\n  - first: {targets: &t [a, b]}\n  - better: {targets: *t}\n") == "no error")
  }

  /// Any bytes are read as a recipe or refused with a message that names the file.
  @Test func mutatedRecipesNeverTrap() throws {
    let seed = Array(
      """
      stages:
        - words: {corpus: "c.txt", samples: 12, length: 8, draw: consecutive}
        - stream: {scale: 1.5, codec: lz4}
        - sum: {keep: true}
        - first: &x
            targets: [q, 'k', *x]
        - better: {id: more, rounds: 3}
        - write

      """.utf8)
    let spice = Array("{}[]:,-&*!|>'\"%@`#?\n\t ~<=.0aé\u{0}\u{2028}".utf8) + [0xFF, 0xC3]
    var random = SeededRandom(seed: 11)
    var refused = 0
    for _ in 0..<4000 {
      var bytes = seed
      for _ in 0..<Int.random(in: 1...5, using: &random) {
        let place = Int.random(in: 0..<bytes.count, using: &random)
        switch Int.random(in: 0..<5, using: &random) {
        case 0: bytes.remove(at: place)
        case 1: bytes.insert(spice.randomElement(using: &random) ?? 0, at: place)
        case 2: bytes.removeSubrange(place..<min(bytes.count, place + 9))
        case 3: bytes.insert(contentsOf: bytes[place..<min(bytes.count, place + 30)], at: place)
        default: bytes[place] = spice.randomElement(using: &random) ?? 0
        }
        if bytes.isEmpty { bytes = [0x20] }
      }
      guard let text = String(validating: bytes, as: UTF8.self) else { continue }
      do {
        _ = try Recipe(text: text, source: "r.yaml", registry: Probe.registry)
      } catch let error as EspalierError {
        refused += 1
        #expect(error.code == .usage && error.description.contains("r.yaml"))
      }
    }
    #expect(refused > 1000)
  }
}
