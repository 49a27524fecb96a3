import EspalierCore
import EspalierIO
import EspalierTestSupport
import Glibc
import Testing

@testable import EspalierPipeline

/// Recipes that try to keep the machine busy are refused or read within seconds.
@Suite(.timeLimit(.minutes(30))) struct HostileRecipeTests {
  private func message(_ text: String) -> String {
    failure { _ = try Recipe(text: text, source: "r.yaml", registry: Probe.registry) }?.description
      ?? "no error"
  }

  private func doubling(_ levels: Int) -> String {
    "&a0 [x, x]" + (1...levels).map { ", &a\($0) [*a\($0 - 1), *a\($0 - 1)]" }.joined()
  }

  /// Yams hashes a key with its aliases expanded: here 2^40 values.
  @Test(arguments: ["{? *a40 : x}", "{*a40 : x}", "{[*a40]: x}", "{*a40}", "*a40"])
  func aliasesThatDouble(end: String) {
    #expect(message("stages: [\(doubling(40)), \(end)]\n").contains("aliases"))
  }

  /// The largest number of aliases that is allowed, nested in keys.
  @Test func aliasesWithinTheBounds() {
    let wide = "[x" + String(repeating: ",x", count: 5000) + "]"
    let keys = String(repeating: "{? ", count: 10) + "[*c,*c]" + String(repeating: " : y}", count: 10)
    let text = "{a: &a \(wide), b: &b [*a,*a,*a], c: &c [*b,*b,*b], d: \(keys)}"
    #expect(message(text).contains("10000 values"))
  }

  @Test(arguments: ["[", "{", "{a: ", "[{b: ", "- ", "? ", "- ? ", "[[],"])
  func nestingOfEveryKind(open: String) {
    for count in [40, 400, 8000] {
      let text = message("stages: " + String(repeating: open, count: count))
      #expect(text.hasPrefix("r.yaml") && text != "no error", "\(text)")
      #expect(message(String(repeating: open, count: count)).hasPrefix("r.yaml"))
    }
    let steps = (0..<120).map { String(repeating: " ", count: $0) + "-\n" }.joined()
    #expect(message("stages:\n" + steps).contains("nested more than"))
  }

  /// What has no end, or would wait forever, is not read as a recipe.
  @Test func devicesAndPipesAreNotExtended() throws {
    let folder = try TemporaryFolder()
    #expect(mkfifo(folder.path + "/pipe", 0o600) == 0)
    for path in ["/dev/zero", folder.path + "/pipe"] {
      #expect(message("extends: \(path)\n").contains("this is a pipe or a device, not a file"))
    }
    try Folder.writeAtomically([UInt8](repeating: 0x23, count: 40_000), to: folder.path + "/long.yaml")
    #expect(message("extends: \(folder.path)/long.yaml\n").contains("at most 32768 are read"))
  }

  /// Names that nest, or never end.
  @Test func namesOfEveryKind() {
    for text in [
      String(repeating: "${", count: 8000), String(repeating: "${A}", count: 8000),
      String(repeating: "$", count: 32_000), "${" + String(repeating: "A", count: 32_000),
      String(repeating: "$${", count: 8000), String(repeating: "${A", count: 8000) + "}",
    ] {
      #expect(
        message("stages: [{first: {targets: [\"\(text)\"]}}]\n").hasPrefix("r.yaml") || text.hasPrefix("$$"))
    }
  }

  /// The time once grew with the square of the length.
  @Test func longTexts() {
    for text in [
      String(repeating: "[", count: 15) + String(repeating: "a: b,", count: 6000),
      "stages: {" + String(repeating: "a: 1,", count: 6000) + "}",
      "stages:\n" + (0..<3000).map { "  k\($0): a\n" }.joined(),
      "stages:\n" + (0..<3000).map { "  - k\($0)\n" }.joined(),
      "stages:\n  - " + String(repeating: "k", count: 32_000),
      "stages: [" + (0..<3000).map { "&a\($0) x," }.joined() + "]",
      String(repeating: "\n", count: 32_000) + "%",
      String(repeating: "\u{85}", count: 16_000) + "[",
    ] { #expect(message(text) != "no error") }
    #expect(message(String(repeating: "#", count: 32_769)).contains("at most 32768 are read"))
    #expect(message("stages: [write]\n" + String(repeating: "#", count: 32_000)) == "no error")
  }

  /// Stars and brackets that recipes use.
  @Test func whatIsNotHostileIsRead() {
    let star = #""re:.*[a-z]*(q|k)*\\d*_proj*""#
    #expect(message("stages: [{first: {targets: [\(star), \(star), \(star)]}}]") == "no error")
    let shared = (1...8).map { "  - better: {id: b\($0), targets: *t}\n" }.joined()
    #expect(message("stages:\n  - first: {targets: &t [a, b]}\n" + shared) == "no error")
    #expect(message("# " + String(repeating: "-", count: 150) + "\nstages: [write]\n") == "no error")
  }

  @Test(arguments: [
    "\u{0}", "\u{1}", "\u{1B}", "\u{FFFE}", "\u{FEFF}\u{FEFF}", "\"\\ud800\"", "!%ff x", "%YAML 9.9\n---\n",
  ])
  func charactersThatYAMLHasNot(text: String) {
    let shown = message("stages: [" + text + "]")
    #expect(shown.hasPrefix("r.yaml") && shown.unicodeScalars.allSatisfy { $0.value >= 0x20 || $0 == "\n" })
  }
}
