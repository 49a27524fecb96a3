import EspalierCore
import EspalierPipeline
import EspalierStages

/// A recipe, with the built-in stages.
enum RecipeTarget: FuzzTarget {
  static let name = "recipe"
  static let words =
    StageRegistry.builtIn.names + [
      "stages:", "\n  - ", ": ", "{", "}", "[", "]", "&a ", "*a", "? ", "!!str ", "!<tag> ", "|\n", ">\n",
      "---\n",
      "...\n", "<<: ", "%YAML 1.2\n", "sparsity: 0.5", "keep: 2", "of: 4", "id: ", "targets: ", "re:.*", "\"",
      "${A}", "$${", "extends: ", "[{file: a, weight: 2}]", "*.txt", "\\u00", "\\xff", "'", "# ",
      "corpus: c.txt", "\u{FEFF}", "\u{85}", "\u{2028}",
    ]

  static func seeds() -> [[UInt8]] {
    [
      """
      stages:
        - tokenize: {corpus: calibration.txt, samples: 128, length: 2048}
        - capture
        - factor
        - warmStart: {method: wanda, keep: 2, of: 4}
        - swap
        - emit

      """,
      "stages: [{tokenize: {corpus: 'a'}}, capture: {propagate: dense}, factor, {warmStart: {sparsity: 0.6, ignore: [q_proj, \"re:.*down\"]}}, {swap: {id: more, maxSwaps: 10}}, emit]",
      "stages:\n  - tokenize: {corpus: &c [a, b]}\n  - ? swap\n    : {id: *c}\n  - emit # the end\n",
      "stages:\n  - tokenize:\n      corpus: |\n        c.txt\n      seed: 7\n      draw: \"consecutive\"\n  - warmStart: {method: magnitude, sparsity: .5}\n  - emit",
      "stages: [{tokenize: {corpus: [{file: a, weight: 3}, ${A}], samples: ${A}}}, ${A}, {swap: {id: \"${A}$${A}\"}}]",
    ].map { Array($0.utf8) }
  }

  /// Aliases that double, nested keys, endless brackets: within the limits and beyond them.
  static func large() -> [[UInt8]] {
    let doubling = "&a0 [x, x]" + (1...40).map { ", &a\($0) [*a\($0 - 1), *a\($0 - 1)]" }.joined()
    let wide = "[x" + String(repeating: ",x", count: 14_000) + "]"
    let keys = String(repeating: "{? ", count: 12) + "[*c,*c]" + String(repeating: " : y}", count: 12)
    return [
      Array("stages: [\(doubling), {? *a40 : x}]".utf8),
      Array("{a: &a \(wide), b: &b [*a,*a,*a], c: &c [*b,*b,*b], d: \(keys)}".utf8),
      repeated("[", 900, before: String(repeating: "a: b,", count: 5_000)), repeated("[", 1_000_000),
      repeated("? ", 16_000), repeated("a: b,", 6_000, after: String(repeating: "[", count: 15)),
      repeated("a: 1,", 6_000, after: "stages: {", before: "}"),
      repeated("(", 30_000, after: "stages:\n  - warmStart: {sparsity: 0.5, targets: [\"re:"),
    ]
  }

  static func run(_ bytes: [UInt8]) throws {
    guard let text = String(validating: bytes, as: UTF8.self) else { return }
    let definitions = text.contains("${A}") ? ["A=64"] : []
    let recipe = try Recipe(
      text: text, source: "recipe.yaml", definitions: definitions, registry: .builtIn)
    require(!recipe.entries.isEmpty, "a recipe without stages")
    for entry in recipe.entries {
      require(try JSON(parsing: entry.key.text) == entry.key, "the parameters are read as others")
    }
  }
}
