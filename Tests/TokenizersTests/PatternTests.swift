import Testing

@testable import EspalierTokenizers

/// Oniguruma's dialect; expected values are those of `tokenizers` 0.23.3.
struct PatternTests {
  struct Case: CustomTestStringConvertible {
    let pattern: String
    let behavior: SplitBehavior
    let inverted: Bool
    let text: String
    let pieces: [String]

    init(
      _ pattern: String, _ behavior: SplitBehavior, inverted: Bool = false, _ text: String, _ pieces: [String]
    ) {
      self.pattern = pattern
      self.behavior = behavior
      self.inverted = inverted
      self.text = text
      self.pieces = pieces
    }

    var testDescription: String { "\(pattern) \(behavior)\(inverted ? " inverted" : "")" }
  }

  static let cases = [
    Case(
      #"\w+|[^\w\s]+"#, .isolated, "a\u{B2}b \u{915}\u{94D}, \u{200D}",
      ["a\u{B2}b", " ", "\u{915}\u{94D}", ",", " ", "\u{200D}"]),
    Case(#"[\w]+"#, .isolated, "a\u{B2}b", ["a", "\u{B2}", "b"]),
    Case(#"\b"#, .isolated, "ab, \u{B2}c", ["ab", ", ", "\u{B2}c"]),
    Case(#"\B"#, .isolated, "ab, c", ["a", "b,", " c"]),
    Case(#"\s"#, .removed, "a\u{180E}b\u{85}c\u{3000}d", ["a\u{180E}b", "c", "d"]),
    Case(#"\h+"#, .isolated, "xyzAf9g", ["xyz", "Af9", "g"]),
    Case(#"\d"#, .isolated, "1\u{663}\u{BD}", ["1", "\u{663}", "\u{BD}"]),
    Case(#"\p{L}{1,3}+"#, .isolated, "abcdefg1hi", ["abcdefg", "1", "hi"]),
    Case(#"a{2}?"#, .isolated, "baaab", ["b", "aa", "a", "b"]),
    Case(#"a{,2}"#, .isolated, "aaab", ["aa", "a", "b"]),
    Case(#"(?:ab|a)++b?"#, .isolated, "xababb", ["x", "ababb"]),
    Case(#"a**|b+*"#, .isolated, "aabbc", ["aa", "b", "b", "c"]),
    Case(#"[a-z&&[^aeiou]]+"#, .isolated, "hello world", ["h", "e", "ll", "o ", "w", "o", "rld"]),
    Case(#"[^a-z&&[^aeiou]]"#, .isolated, "hex", ["h", "e", "x"]),
    Case(#"[a[bc]]+"#, .isolated, "abcd", ["abc", "d"]),
    Case(#"[^a[bc]\d]+"#, .isolated, "a1xyb", ["a1", "xy", "b"]),
    Case(#"[^\P{L}]+"#, .isolated, "ab1", ["ab", "1"]),
    Case(#"[\P{L}a]+"#, .isolated, "xa1b", ["x", "a1", "b"]),
    Case(#"\p{^N}+"#, .isolated, "a1b", ["a", "1", "b"]),
    Case(#"\p{Lu}\p{lowercase letter}*"#, .isolated, "aBcD", ["a", "Bc", "D"]),
    Case(
      #"\p{Han}+"#, .isolated, "a\u{6F22}\u{5B57}\u{31350}b\u{3001}",
      ["a", "\u{6F22}\u{5B57}\u{31350}", "b\u{3001}"]),
    Case(#"\p{L}+"#, .isolated, "1\u{31350}\u{1C8A}2", ["1", "\u{31350}\u{1C8A}", "2"]),
    Case(#"\p{Punct}"#, .isolated, "a+b!", ["a+b", "!"]),
    Case(#"[[:punct:]]"#, .isolated, "a+b!", ["a", "+", "b", "!"]),
    Case(#"[[:^alpha:]]+"#, .isolated, "ab12c", ["ab", "12", "c"]),
    Case(#"(?m:.)+"#, .isolated, "a\u{A}b", ["a\u{A}b"]),
    Case(#".+"#, .isolated, "a\u{A}b", ["a", "\u{A}", "b"]),
    Case(#"^"#, .isolated, "a\u{A}b\u{A}", ["a\u{A}", "b\u{A}"]),
    Case(#"a(?i)b|C"#, .isolated, "aBcaC", ["aB", "c", "aC"]),
    Case(#"(?i:'s|'ll)"#, .isolated, "it'S we'LL '\u{17F}", ["it", "'S", " we", "'LL", " ", "'\u{17F}"]),
    Case(#"(?<=\s)\S+"#, .isolated, "ab cd ef", ["ab ", "cd", " ", "ef"]),
    Case(#"(\w)\1"#, .isolated, "hello aab", ["he", "ll", "o ", "aa", "b"]),
    Case(#"(?<n>\w)\k<n>"#, .isolated, "hello aab", ["he", "ll", "o ", "aa", "b"]),
    Case(#"\x{6f22}|\u0041|\x42"#, .isolated, "\u{6F22}xABC", ["\u{6F22}", "x", "A", "B", "C"]),
    Case(#"[]a]"#, .isolated, "[a]", ["[", "a", "]"]),
    Case(#"a{|b}"#, .isolated, "xa{b}", ["x", "a{", "b}"]),
    Case(#"\v|\e|\a"#, .isolated, "a\u{B}b\u{1B}c\u{7}d", ["a", "\u{B}", "b", "\u{1B}", "c", "\u{7}", "d"]),
    Case(#""#, .isolated, "abc", ["a", "b", "c"]),
    Case(#"x*"#, .isolated, "axxb", ["a", "xx", "b"]),
    Case(#"-"#, .removed, "the-final--countdown", ["the", "final", "countdown"]),
    Case(#"-"#, .isolated, "the-final--countdown", ["the", "-", "final", "-", "-", "countdown"]),
    Case(#"-"#, .mergedWithPrevious, "the-final--countdown", ["the-", "final-", "-", "countdown"]),
    Case(#"-"#, .mergedWithNext, "the-final--countdown", ["the", "-final", "-", "-countdown"]),
    Case(#"-"#, .contiguous, "the-final--countdown", ["the", "-", "final", "--", "countdown"]),
    Case(#"[a-z]"#, .removed, inverted: true, "the-final--x", ["t", "h", "e", "f", "i", "n", "a", "l", "x"]),
    Case(#"[a-z]"#, .isolated, inverted: true, "ab--cd-", ["a", "b", "--", "c", "d", "-"]),
    Case(#"[a-z]"#, .mergedWithPrevious, inverted: true, "ab--cd-", ["a", "b--", "c", "d-"]),
    Case(#"[a-z]"#, .mergedWithNext, inverted: true, "ab--cd-", ["a", "b", "--c", "d", "-"]),
    Case(#"[a-z]"#, .contiguous, inverted: true, "ab--cd-", ["ab", "--", "cd", "-"]),
    Case(#"x*"#, .mergedWithNext, "axxb", ["a", "xxb"]),
    Case(#"x*"#, .mergedWithPrevious, "axxb", ["axx", "b"]),
    Case(#"\s+(?!\S)|\s+"#, .isolated, "a   b  ", ["a", "  ", " ", "b", "  "]),
  ]

  @Test(arguments: cases)
  func splits(_ test: Case) throws {
    let step = PreTokenizer.split(
      .regular(try Pattern(test.pattern)), test.behavior, inverted: test.inverted)
    var pieces: [String] = []
    try step.split(Array(test.text.utf8).span, head: 0, BufferPool()) { piece, _ in
      pieces.append(String(decoding: Array(piece), as: UTF8.self))
    }
    // Compared as bytes, since canonically equivalent strings are equal in Swift.
    #expect(pieces.map { Array($0.utf8) } == test.pieces.map { Array($0.utf8) }, "\(pieces)")
  }

  @Test(arguments: [
    ("(a", "a group is not closed"), ("a)", "a closing parenthesis has no opening one"),
    ("[a", "a bracket is not closed"),
    ("*a", "nothing to repeat"), ("a|*", "nothing to repeat"), (#"\"#, "ends with a backslash"),
    ("(?x)a", "group option"), ("(?~ab)", "not supported"), ("(*FAIL)", "callouts"),
    (#"\X"#, #"\X is not supported"#),
    (#"\xE3"#, "bytes are not supported"), (#"\x{110000}"#, "number is not valid"),
    ("[b-a]", "range of characters"),
    (#"[a-\d]"#, "range of characters"), ("[a&&]", "a bracket is empty"), ("[[:nope:]]", "not supported"),
    ("a{3,2}", "wrong order"), ("a{2,}{2,}{2,}{2,}{2,}", "too many consecutive repetitions"),
    (#"\p{Klingon}"#, "unknown property"), (#"\p{}"#, "name is not valid"),
    ("(?<=a+)b", "lookbehind"), (#"\1"#, "non-existent"), ("(?<n", "name is not valid"),
    ("(?i:ss)", "when case is ignored"), ("(?i)é", "when case is ignored"),
    (#"(?i)\p{Lu}"#, "when case is ignored"),
    (#"(?i)[^\S]"#, "when case is ignored"), ("(?i:[[:upper:]])", "not supported here"),
    (String(repeating: "(", count: 10_000), "nested too deeply"),
    (String(repeating: "[", count: 10_000), "too deep"),
    (String(repeating: "(?i)", count: 10_000), "too deep"), ("(((a{1000}){1000}){1000})", "too large"),
  ])
  func refuses(_ pattern: String, _ complaint: String) {
    do {
      _ = try Pattern(pattern)
      Issue.record("\(pattern.prefix(40)) is taken")
    } catch {
      #expect(error.text.contains(complaint), "\(error.text)")
    }
  }

  @Test(.timeLimit(.minutes(30)), arguments: ["(a+)+$", "(a|aa)+$", "(a*)*b|(a|a)*c"])
  func patternsThatNeverEnd(_ text: String) throws {
    let pattern = try Pattern(text)
    let subject = [UInt8](repeating: UInt8(ascii: "a"), count: 60) + Array("!".utf8)
    #expect(throws: (any Error).self) { try pattern.forEachMatch(in: subject.span) { _ in } }
  }

  /// A star of a star is a star, as in Oniguruma.
  @Test(.timeLimit(.minutes(5)))
  func manyStars() throws {
    let pattern = try Pattern("x" + String(repeating: "*", count: 100) + "y{1,}")
    var matches: [Range<Int>] = []
    try pattern.forEachMatch(in: Array("xxyy xx y".utf8).span) { matches.append($0) }
    #expect(matches == [0..<4, 8..<9])
  }

  @Test func deepMatchesNeedNoStack() throws {
    let subject = [UInt8](repeating: UInt8(ascii: "a"), count: 200_000)
    var matches: [Range<Int>] = []
    try Pattern("(?:a|b|ab)+").forEachMatch(in: subject.span) { matches.append($0) }
    #expect(matches == [0..<200_000])
  }
}

extension Array where Element == UInt8 {
  fileprivate init(_ span: Span<UInt8>) {
    self = []
    for index in span.indices { append(span[index]) }
  }
}
