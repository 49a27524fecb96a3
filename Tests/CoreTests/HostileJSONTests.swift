import EspalierCore
import Testing

/// Hostile texts: each gives an error or a value, in time and memory bounded by its length.
@Suite struct HostileJSONTests {
  private func message(_ text: String, limits: JSON.Limits = JSON.Limits()) -> String {
    do {
      _ = try JSON(parsing: text, limits: limits)
      return "no error"
    } catch { return "\(error)" }
  }

  /// Far deeper than the stack would hold.
  @Test(arguments: ["[", "{\"a\":", "[{\"a\":", "[[[["])
  func nestingOfMillions(open: String) {
    #expect(
      message(String(repeating: open, count: 2_000_000 / open.utf8.count)).contains("nested more than 64"))
  }

  /// Comparing each key with all earlier ones would take hours.
  @Test(.timeLimit(.minutes(30)))
  func anObjectOfManyKeys() throws {
    let members = (0..<100_000).map { "\"k\($0)\":0" }
    let text = "{" + members.joined(separator: ",")
    #expect(try JSON(parsing: text + "}").object?.members.count == 100_000)
    #expect(message(text + ",\"k77777\":1}").contains("the key \"k77777\" occurs twice"))
  }

  /// The duplicate may be any key, of few or many.
  @Test(arguments: [1, 2, 7, 8, 9, 10, 40]) func duplicateKeys(count: Int) throws {
    let members = (0..<count).map { "\"k\($0)\":0" }
    #expect(try JSON(parsing: "{" + members.joined(separator: ",") + "}").object?.members.count == count)
    for twice in 0..<count {
      let text = "{" + (members + ["\"\\u006b\(twice)\":1"]).joined(separator: ",") + "}"
      #expect(message(text).contains("the key \"k\(twice)\" occurs twice"))
    }
    // Equal to people, but not as bytes.
    let equivalent = (members + ["\"\u{E9}\":0", "\"e\u{301}\":0"]).joined(separator: ",")
    #expect(try JSON(parsing: "{" + equivalent + "}").object?.members.count == count + 2)
  }

  @Test func moreValuesThanAreAllowed() {
    var limits = JSON.Limits()
    #expect(limits.values == 4_000_000)
    limits.values = 10_000
    for value in ["0", "[]", "{}", "\"\"", "{\"a\":0}"] {
      let text = "[" + Array(repeating: value, count: 10_000).joined(separator: ",") + "]"
      #expect(message(text, limits: limits).contains("more than 10000 values"))
    }
  }

  @Test(arguments: [
    "NaN", "-NaN", "nan", "Infinity", "-Infinity", "inf", "1e309", "-1e309", "1e99999999999", "0x10", "+1",
    "1_000",
    ".5", "1.", "01", "--1", "1e", "\u{661}",
  ])
  func numbersThatAreNone(text: String) {
    for place in [text, "[\(text)]", "{\"a\":\(text)}"] { #expect(message(place) != "no error", "\(place)") }
  }

  @Test func bytesThatAreNoUTF8() {
    let wrong: [[UInt8]] = [
      [0xFF], [0xC0, 0x80], [0xC3], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0x80], [0xE2, 0x82],
    ]
    for bytes in wrong {
      for text in [[0x22] + bytes + [0x22], Array("{\"".utf8) + bytes + Array("\":0}".utf8), bytes] {
        #expect(throws: EspalierError.self) { try JSON(parsing: text.span.bytes) }
      }
    }
    #expect(message(#""\ud800""#).contains("surrogate"))
    #expect(message(#""\udc00\ud800""#).contains("surrogate"))
  }

  /// The names of a file's tensors must not move the cursor of a terminal.
  @Test func errorsShowNoControlCharacters() {
    let name = "a\u{1B}[2J\u{7}\u{0}\u{009B}\u{7F}\r"
    let error = EspalierError.badInput("no \(name)", subject: name)
    #expect(
      error.description == #"a\u{1B}[2J\u{07}\0\u{009B}\u{7F}\r: no a\u{1B}[2J\u{07}\0\u{009B}\u{7F}\r"#)
    #expect(EspalierError.usage("one\n  two é 😀").description == "one\n  two é 😀")
  }
}
