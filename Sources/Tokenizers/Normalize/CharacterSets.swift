/// A set of characters, as the content of a PCRE2 bracket expression.
struct CharacterItems {
  var text: String
  /// Whether the set is the complement of `text`.
  var negated = false

  /// Whether the set depends on the case of letters.
  var knowsCase: Bool {
    [#"\p{Lu}"#, #"\p{Ll}"#, #"\p{Lt}"#, #"\p{Uppercase}"#, #"\p{Lowercase}"#].contains { text.contains($0) }
  }
}

/// The character sets of Oniguruma's escapes, properties and POSIX brackets.
///
/// PCRE2's own `\s`, `\w` and POSIX classes differ (U+180E counts as a space, marks do not count as word characters), and its
/// properties are those of Unicode 14. So each set is spelled out, with the characters added since. A PCRE2 newer than Unicode 16
/// knows further characters, which are too new to matter.
enum CharacterSets {
  static let space = CharacterItems(
    text: #"\t-\r\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"#)
  static let hexadecimal = CharacterItems(text: "0-9A-Fa-f")
  static let digit = properties("Nd")
  static let word = properties("Alphabetic", "M", "Nd", "Pc")
  /// Outside brackets, Oniguruma also counts the superscripts and fractions of Latin-1 as word characters.
  static let looseWord = CharacterItems(text: word.text + #"\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE}"#)
  /// The reference's other engine, used for `Whitespace` and whole words, also counts the joiners.
  static let rustWord = CharacterItems(text: word.text + #"\x{200C}\x{200D}"#)

  /// The set of a property, `\p{name}`; unknown names are assumed to be scripts.
  static func property(_ name: String) -> CharacterItems {
    let key = name.lowercased().filter { !" _-".contains($0) }
    if let category = categories[key] { return properties(category) }
    switch key {
    case "c": return CharacterItems(text: assigned(except: ["Cc", "Cf", "Co"]), negated: true)
    case "cn", "unassigned": return CharacterItems(text: assigned(except: []), negated: true)
    case "lc", "casedletter": return properties("Lu", "Ll", "Lt")
    case "any": return CharacterItems(text: #"\x{0}-\x{10FFFF}"#)
    case "punct": return properties("P")
    default: break
    }
    if let set = posix(key) { return set }
    return CharacterItems(text: #"\p{sc:"# + name + "}" + (recent[name] ?? ""))
  }

  /// The set of a POSIX bracket, `[:name:]`; only here, symbols count as punctuation.
  static func posix(_ name: String) -> CharacterItems? {
    switch name {
    case "alpha", "alphabetic": properties("Alphabetic")
    case "alnum": properties("Alphabetic", "Nd")
    case "upper", "uppercase": properties("Uppercase")
    case "lower", "lowercase": properties("Lowercase")
    case "digit": digit
    case "space", "whitespace": space
    case "punct": properties("P", "S")
    case "word": word
    case "xdigit": hexadecimal
    case "blank": CharacterItems(text: properties("Zs").text + #"\t"#)
    case "cntrl": properties("Cc")
    case "ascii": CharacterItems(text: #"\x{0}-\x{7F}"#)
    default: nil
    }
  }

  private static func properties(_ names: String...) -> CharacterItems {
    CharacterItems(text: names.map { #"\p{"# + $0 + "}" + (recent[$0] ?? "") }.joined())
  }

  private static func assigned(except left: [String]) -> String {
    ["L", "M", "N", "P", "S", "Z", "Cc", "Cf", "Co"].filter { !left.contains($0) }.map { properties($0).text }
      .joined()
  }

  /// Characters unknown to PCRE2, by property.
  private static let recent: [String: String] = {
    var sets: [String: String] = [:]
    var name = ""
    for word in UnicodeTables.recent.description.split(whereSeparator: { $0 == " " || $0 == "\n" }) {
      if word.hasSuffix(":") {
        name = String(word.dropLast())
      } else {
        sets[name, default: ""] += word.split(separator: "-").map { #"\x{"# + $0 + "}" }.joined(
          separator: "-")
      }
    }
    return sets
  }()

  /// General categories by name, in lower case and without separators.
  private static let categories: [String: String] = [
    "l": "L", "letter": "L", "lu": "Lu", "uppercaseletter": "Lu", "ll": "Ll", "lowercaseletter": "Ll",
    "lt": "Lt",
    "titlecaseletter": "Lt", "lm": "Lm", "modifierletter": "Lm", "lo": "Lo", "otherletter": "Lo", "m": "M",
    "mark": "M", "combiningmark": "M", "mn": "Mn", "nonspacingmark": "Mn", "mc": "Mc", "spacingmark": "Mc",
    "me": "Me", "enclosingmark": "Me", "n": "N", "number": "N", "nd": "Nd", "decimalnumber": "Nd", "nl": "Nl",
    "letternumber": "Nl", "no": "No", "othernumber": "No", "p": "P", "punctuation": "P", "pc": "Pc",
    "connectorpunctuation": "Pc", "pd": "Pd", "dashpunctuation": "Pd", "ps": "Ps", "openpunctuation": "Ps",
    "pe": "Pe", "closepunctuation": "Pe", "pi": "Pi", "initialpunctuation": "Pi", "pf": "Pf",
    "finalpunctuation": "Pf", "po": "Po", "otherpunctuation": "Po", "s": "S", "symbol": "S", "sm": "Sm",
    "mathsymbol": "Sm", "sc": "Sc", "currencysymbol": "Sc", "sk": "Sk", "modifiersymbol": "Sk", "so": "So",
    "othersymbol": "So", "z": "Z", "separator": "Z", "zs": "Zs", "spaceseparator": "Zs", "zl": "Zl",
    "lineseparator": "Zl", "zp": "Zp", "paragraphseparator": "Zp", "cc": "Cc", "control": "Cc", "cf": "Cf",
    "format": "Cf", "co": "Co", "privateuse": "Co",
  ]
}
