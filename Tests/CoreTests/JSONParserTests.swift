import EspalierCore
import Testing

@Suite struct JSONParserTests {
  @Test(arguments: [
    // RFC 8259 allows any value at the top, and the four kinds of space around it.
    ("null", "null"), (" \t\r\n true \n", "true"), ("false", "false"), ("\"a\"", "\"a\""), ("[]", "[]"),
    ("{}", "{}"),
    ("[ ]", "[]"), ("{ }", "{}"), ("[1, 2 ,3]", "[1,2,3]"), (#"{"b":1,"a":[{}]}"#, #"{"b":1,"a":[{}]}"#),
    (#"{"":0}"#, #"{"":0}"#), (#"{"a":{"a":1}}"#, #"{"a":{"a":1}}"#), ("\"\u{7F}\"", "\"\\u007f\""),
    // Escapes.
    (#""\"\\\/\b\f\n\r\t""#, #""\"\\/\u0008\u000c\n\r\t""#), (#""\u0041\u00e9\u00E9\u20AC""#, "\"Aéé€\""),
    (#""\uD83D\uDE00""#, "\"😀\""), (#""\u0000""#, #""\u0000""#), ("\"😀\u{2028}\"", "\"😀\u{2028}\""),
    (#""\ud7ff\ue000\uffff""#, "\"\u{D7FF}\u{E000}\u{FFFF}\""),
    // Numbers.
    ("0", "0"), ("-1", "-1"), ("9223372036854775807", "9223372036854775807"),
    ("-9223372036854775808", "-9223372036854775808"), ("1.5", "1.5"), ("-0.5e1", "-5.0"), ("1E+2", "100.0"),
    ("1e-2", "0.01"), ("0.1", "0.1"), ("9223372036854775808", "9.223372036854776e+18"), ("1e-400", "0.0"),
    ("1.7976931348623157e308", "1.7976931348623157e+308"), ("0e0", "0.0"), ("5e-324", "5e-324"),
  ])
  func valid(text: String, written: String) throws {
    let value = try JSON(parsing: text)
    #expect(value.text.utf8.elementsEqual(written.utf8))
    for again in [value.text, value.prettyText] {
      #expect(try JSON(parsing: again).text.utf8.elementsEqual(written.utf8))
    }
  }

  @Test(arguments: [
    "", " ", "nul", "nulll", "True", "NaN", "Infinity", "-Infinity", "undefined", "'a'", "a", "// x\n1",
    "1 2", "1,",
    // Structure.
    "[", "]", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1}", "{", "}", "{,}", "{\"a\"}", "{\"a\":}",
    "{\"a\":1,}",
    "{\"a\" 1}", "{a:1}", "{1:1}", "{\"a\":1 \"b\":2}", "{\"a\":1]", "{null:1}", "[1],", "\u{FEFF}1",
    "\u{A0}1",
    // Numbers.
    "-", "+1", "01", "-01", "00", "1.", ".5", "1.e1", "1e", "1e+", "0x1", "1_0", "1e400", "-1e400", "--1",
    "1.5.5", "1e1.5",
    // Strings.
    "\"", "\"a", "\"\\\"", "\"\\", "\"\\x\"", "\"\\u\"", "\"\\u12\"", "\"\\u12G4\"", "\"\\u12", "\"\n\"",
    "\"\t\"", "\"\0\"",
    "\"\u{1F}\"", "\"\\U0041\"", "\"a\\\nb\"", "\"\\u00４1\"",
    // Surrogates without their other half.
    #""\ud800""#, #""\udc00""#, #""\ud800x""#, #""\ud800\n""#, #""\ud800\u0041""#, #""\ud800\ud800""#,
    #""\udc00\ud800""#, #""\uD83D\"#, #""\uD83D\u"#, #"{"\ud800":1}"#,
    // The same key twice, however it is written.
    #"{"a":1,"a":1}"#, #"{"a":1,"b":2,"\u0061":3}"#, #"{"x":{"":1,"":2}}"#, "{\"\u{E9}\":1,\"\\u00e9\":2}",
  ])
  func invalid(text: String) {
    let error = #expect(throws: EspalierError.self) { try JSON(parsing: text) }
    #expect(error?.code == .badInput)
    #expect(error?.message.contains("line ") == true)
  }

  @Test func theErrorSaysWhere() {
    for (text, place) in [
      ("x", "line 1, column 1"), ("{\n  \"a\": tru\n}", "line 2, column 11"),
      ("[1,\n 2,\n ?]", "line 3, column 2"),
      ("{\"a\":1,\n\"a\":2}", "line 2, column 1"), ("[\"é\", x]", "line 1, column 8"),
      ("[1, 1e999]", "line 1, column 5"),
    ] {
      let error = #expect(throws: EspalierError.self) { try JSON(parsing: text) }
      #expect(error?.message.contains(place) == true, "\(text): \(error?.message ?? "")")
    }
  }

  @Test(
    arguments: [
      [0x80], [0xFF], [0xC0, 0xAF], [0xC1, 0x81], [0xE0, 0x80, 0xAF], [0xED, 0xA0, 0x80],
      [0xF4, 0x90, 0x80, 0x80],
      [0xF5, 0x80, 0x80, 0x80], [0xC3], [0xE2, 0x82], [0xF0, 0x9F, 0x98], [0x41, 0xC3, 0x28],
    ] as [[UInt8]])
  func invalidUTF8(bytes: [UInt8]) {
    for quoted in [
      [0x22] + bytes + [0x22], [0x22, 0x5C, 0x6E] + bytes + [0x22],
      [0x7B, 0x22] + bytes + Array("\":1}".utf8),
    ] {
      #expect(throws: EspalierError.self) { try JSON(parsing: quoted.span.bytes) }
    }
    #expect(throws: EspalierError.self) { try JSON(parsing: bytes.span.bytes) }
  }

  /// Swift's strings compare by canonical equivalence; vocabularies hold both forms of one character.
  @Test func equivalentKeysAreDifferentKeys() throws {
    let text = "{\"\u{E9}\":1,\"e\u{301}\":2,\"\u{212B}\":3,\"\u{C5}\":4}"
    let value = try JSON(parsing: text)
    #expect(value["\u{E9}"]?.integer == 1 && value["e\u{301}"]?.integer == 2)
    #expect(value["\u{212B}"]?.integer == 3 && value["\u{C5}"]?.integer == 4 && value["A\u{30A}"] == nil)
    #expect(value.text.utf8.elementsEqual(text.utf8))
    #expect(JSON.string("\u{E9}") != JSON.string("e\u{301}"))
    #expect(value.canonical.object?.members.map { $0.value.integer } == [2, 4, 1, 3])
  }

  @Test func limitsHold() throws {
    func nested(_ depth: Int) -> String {
      String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
    }
    #expect(throws: Never.self) { try JSON(parsing: nested(64)) }
    #expect(throws: EspalierError.self) { try JSON(parsing: nested(66)) }
    #expect(throws: EspalierError.self) { try JSON(parsing: String(repeating: "[", count: 1_000_000)) }
    #expect(throws: EspalierError.self) { try JSON(parsing: String(repeating: "{\"a\":", count: 100_000)) }
    var limits = JSON.Limits()
    limits.depth = 2
    #expect(throws: Never.self) { try JSON(parsing: "[[1]]", limits: limits) }
    #expect(throws: EspalierError.self) { try JSON(parsing: "[[[1]]]", limits: limits) }
    limits.values = 4
    #expect(throws: Never.self) { try JSON(parsing: "[1,2,3]", limits: limits) }
    #expect(throws: EspalierError.self) { try JSON(parsing: "[1,2,3,4]", limits: limits) }
    #expect(throws: EspalierError.self) { try JSON(parsing: String(repeating: "9", count: 100_000)) }
  }

  /// Any bytes give a typed error, or a value that survives writing and reading.
  @Test func mutatedTextsNeverTrap() throws {
    let seeds = [
      #"{"a":[1,-2.5e3,true,null,"x\n\ud83d\ude00é"],"b":{"c":{}},"":[[]]}"#,
      #"{"model":{"vocab":{"Ġthe":262,"é":1},"merges":["a b"]},"added":[{"id":0,"special":false}]}"#,
      "[0,-0,1e5,123456789012345678901234567890,0.1,\"\\\\\\\"\\/\"]",
    ].map { Array($0.utf8) }
    let bytes = Array("{}[]\",:\\u0dDeE+-. \n\t\0/truefalsn".utf8) + [0x80, 0xC3, 0xED, 0xF0, 0xFF]
    var numbers = JSONNumbers(state: 11)
    var valid = 0
    for round in 0..<6000 {
      var text = seeds[round % seeds.count]
      for _ in 0..<Int.random(in: 1...3, using: &numbers) {
        let place = Int.random(in: 0..<text.count, using: &numbers)
        switch Int.random(in: 0...4, using: &numbers) {
        case 0: text.remove(at: place)
        case 1: text.insert(bytes.randomElement(using: &numbers) ?? 0, at: place)
        case 2: text.removeSubrange(place..<min(text.count, place + Int.random(in: 1...6, using: &numbers)))
        case 3: text.insert(contentsOf: text[place..<min(text.count, place + 5)], at: place)
        default: text[place] = bytes.randomElement(using: &numbers) ?? 0
        }
        if text.isEmpty { text = [0x20] }
      }
      do {
        let value = try JSON(parsing: text.span.bytes)
        valid += 1
        #expect(try JSON(parsing: value.text) == value)
        #expect(try JSON(parsing: value.prettyText).canonical == value.canonical)
      } catch let error as EspalierError {
        #expect(error.code == .badInput)
      }
    }
    #expect(valid > 300, "too few mutations reach the inside of the parser: \(valid)")
  }
}

/// The same numbers in every run (SplitMix64).
private struct JSONNumbers: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = (state ^ state >> 30) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
    return mixed ^ mixed >> 31
  }
}
