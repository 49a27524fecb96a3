/// Translates an Oniguruma pattern to PCRE2's dialect, or reports what is not supported.
///
/// The differences that matter in tokenizers:
/// - `\p{...}`, `\s`, `\w`, `\d`, `\b` and POSIX brackets follow Oniguruma's Unicode, see ``CharacterSets``;
/// - `\h` is a hexadecimal digit, `(?m)` lets `.` match a line feed, `^` and `$` always match at line ends;
/// - `a{1,2}+` repeats a repetition (`a++` is possessive in both), `a{2}?` is optional, `a{,2}` starts at zero;
/// - brackets nest and intersect: `[a-z&&[^aeiou]]`;
/// - `a(?i)b|c` is `a(?i:b|c)`.
///
/// When case is ignored, the two differ a lot: in Oniguruma, `ss` matches `ß` and `\p{Lu}` matches any cased letter. Then only what
/// they agree on is supported: ASCII letters, plain brackets and properties that do not depend on case.
struct OnigurumaTranslator {
  let source: [Unicode.Scalar]
  var position = 0
  private(set) var ignoresCase = false
  /// Whether case is ignored at the current position.
  private var caselessNeighbour: Unicode.Scalar?

  /// Nesting limit of groups and brackets.
  static let maximumDepth = 100
  /// Limit of repetitions of repetitions.
  private static let maximumRepetitions = 4

  static func translate(_ pattern: String) throws(PatternProblem) -> String {
    var translator = OnigurumaTranslator(source: Array(pattern.unicodeScalars))
    let result = try translator.alternatives(depth: 0)
    guard translator.peek() == nil else {
      throw translator.problem("a closing parenthesis has no opening one")
    }
    return result
  }

  private init(source: [Unicode.Scalar]) { self.source = source }

  // MARK: Structure

  private mutating func alternatives(depth: Int) throws(PatternProblem) -> String {
    guard depth <= Self.maximumDepth else { throw problem("groups are nested too deeply") }
    var result = try sequence(depth: depth)
    while take("|") { result += "|" + (try sequence(depth: depth)) }
    return result
  }

  private mutating func sequence(depth: Int) throws(PatternProblem) -> String {
    var result = ""
    while let next = peek(), next != "|", next != ")" {
      let outside = ignoresCase
      if let options = isolatedOptions() {
        result += "(?\(options):" + (try alternatives(depth: depth + 1)) + ")"
        ignoresCase = outside
      } else {
        result += try quantified(try atom(depth: depth))
      }
    }
    return result
  }

  private mutating func atom(depth: Int) throws(PatternProblem) -> String {
    guard let next = advance() else { throw problem("it ends too early") }
    let neighbour = caselessNeighbour
    caselessNeighbour = nil
    switch next {
    case "(": return try group(depth: depth)
    case "[": return try bracket(depth: depth + 1)
    case "\\": return try escape()
    case ".", "^", "$": return String(next)
    case "*", "+", "?": throw problem("there is nothing to repeat")
    default: return try literal(next, after: neighbour)
    }
  }

  private mutating func literal(
    _ scalar: Unicode.Scalar, after neighbour: Unicode.Scalar? = nil
  ) throws(PatternProblem) -> String {
    if ignoresCase {
      caselessNeighbour = Unicode.Scalar(scalar.value | 0x20)
      let pair = [neighbour, caselessNeighbour]
      let folded: [[Unicode.Scalar?]] = [["s", "s"], ["f", "f"], ["f", "i"], ["f", "l"], ["s", "t"]]
      guard scalar.isASCII, !folded.contains(pair) else {
        throw problem("this character is not supported when case is ignored")
      }
    }
    return Self.literal(scalar)
  }

  private mutating func quantified(_ atom: String) throws(PatternProblem) -> String {
    var result = atom
    var last: String?
    var count = 0
    while let quantifier = try quantifier() {
      caselessNeighbour = nil
      // A star of a star matches the same as one star, and many of them would take a matcher very long.
      if quantifier == "*", last == "*" { continue }
      guard count < Self.maximumRepetitions else {
        throw problem("there are too many consecutive repetitions")
      }
      result = (last == nil ? result : "(?:\(result))") + quantifier
      last = quantifier
      count += 1
    }
    return result
  }

  private mutating func quantifier() throws(PatternProblem) -> String? {
    for sign in ["*", "+", "?"] as [Unicode.Scalar] where take(sign) {
      return String(sign) + (take("?") ? "?" : take("+") ? "+" : "")
    }
    let start = position
    guard take("{") else { return nil }
    let low = number()
    let comma = take(",")
    let high = comma ? number() : low
    guard take("}"), low != nil || high != nil else {
      position = start
      return nil
    }
    if let low, let high, low > high { throw problem("a repetition's bounds are in the wrong order") }
    guard comma else { return "{\(low ?? 0)}" }
    return "{\(low ?? 0),\(high.map(String.init) ?? "")}" + (take("?") ? "?" : "")
  }

  private mutating func group(depth: Int) throws(PatternProblem) -> String {
    guard peek() != "*" else { throw problem("callouts are not supported") }
    var opening = "("
    let outside = ignoresCase
    defer { ignoresCase = outside }
    if take("?") {
      if take("#") {
        while let next = advance(), next != ")" {}
        return "(?:)"
      }
      opening = "(?" + (try groupKind())
    }
    let body = try alternatives(depth: depth + 1)
    guard take(")") else { throw problem("a group is not closed") }
    return opening + body + ")"
  }

  private mutating func groupKind() throws(PatternProblem) -> String {
    for kind in [":", "=", "!", ">", "<=", "<!"] where take(kind) { return kind }
    if take("<") {
      let name = word()
      guard !name.isEmpty, take(">") else { throw problem("a group's name is not valid") }
      return "<\(name)>"
    }
    let options = try self.options()
    guard take(":") else { throw problem("a kind of group is not supported") }
    return options + ":"
  }

  /// `(?i)`, which applies until its group ends; nil if there is none here.
  private mutating func isolatedOptions() -> String? {
    let start = (position, ignoresCase)
    if take("(?"), let options = try? self.options(), take(")") { return options }
    (position, ignoresCase) = start
    return nil
  }

  private mutating func options() throws(PatternProblem) -> String {
    var result = ""
    while let next = peek(), next != ":", next != ")" {
      switch next {
      case "i":
        ignoresCase = !result.contains("-")
        result += "i"
      case "-": result += "-"
      case "m": result += "s"
      case "x" where result.contains("-"): break
      default: throw problem("the group option \"\(next)\" is not supported")
      }
      position += 1
    }
    return result
  }

  // MARK: Escapes

  private mutating func escape() throws(PatternProblem) -> String {
    if let set = try setEscape(outside: true) { return Self.bracket(set) }
    guard let next = peek() else { throw problem("it ends with a backslash") }
    let word = CharacterSets.looseWord.text
    switch next {
    case "b":
      position += 1
      return "(?:(?<=[\(word)])(?![\(word)])|(?<![\(word)])(?=[\(word)]))"
    case "B":
      position += 1
      return "(?:(?<=[\(word)])(?=[\(word)])|(?<![\(word)])(?![\(word)]))"
    case "A", "z", "Z":
      position += 1
      return "\\" + String(next)
    case "R":
      position += 1
      return #"(?>\r\n|[\n-\r\x{85}\x{2028}\x{2029}])"#
    case "N":
      position += 1
      return "[^\\n]"
    case "O":
      position += 1
      return "(?s:.)"
    case "k":
      position += 1
      guard take("<") else { throw problem("a reference is not valid") }
      let name = self.word()
      guard !name.isEmpty, take(">") else { throw problem("a reference is not valid") }
      return "\\k<\(name)>"
    case "1"..."9":
      guard let number = number(), number < 10 else { throw problem("a reference is not valid") }
      return "\\g{\(number)}"
    default: return try literal(try characterEscape())
    }
  }

  /// An escape that represents a set of characters, in brackets or outside; nil for other escapes.
  mutating func setEscape(outside: Bool) throws(PatternProblem) -> CharacterItems? {
    guard let next = peek() else { return nil }
    var set: CharacterItems
    switch next {
    case "s", "S": set = CharacterSets.space
    case "d", "D": set = CharacterSets.digit
    case "h", "H": set = CharacterSets.hexadecimal
    case "w", "W": set = outside ? CharacterSets.looseWord : CharacterSets.word
    case "p", "P":
      guard position + 1 < source.count, source[position + 1] == "{" else { return nil }
      position += 2
      let negated = take("^")
      var name = ""
      while let letter = advance(), letter != "}" { name.unicodeScalars.append(letter) }
      guard !name.isEmpty, name.unicodeScalars.allSatisfy({ Self.isWord($0) || $0 == " " || $0 == "-" })
      else {
        throw problem("a property's name is not valid")
      }
      set = CharacterSets.property(name)
      guard !ignoresCase || !set.knowsCase else {
        throw problem("\\p{\(name)} is not supported when case is ignored")
      }
      if outside, set.text == CharacterSets.word.text { set = CharacterSets.looseWord }
      if negated != (next == "P") { set.negated.toggle() }
      return set
    default: return nil
    }
    position += 1
    if next.properties.isUppercase { set.negated.toggle() }
    return set
  }

  mutating func characterEscape() throws(PatternProblem) -> Unicode.Scalar {
    guard let next = advance() else { throw problem("it ends with a backslash") }
    switch next {
    case "t": return "\t"
    case "n": return "\n"
    case "r": return "\r"
    case "f": return "\u{C}"
    case "v": return "\u{B}"
    case "a": return "\u{7}"
    case "e": return "\u{1B}"
    case "0": return try scalar(digits(radix: 8, maximum: 2, minimum: 0), radix: 8)
    case "u": return try scalar(digits(radix: 16, maximum: 4, minimum: 4), radix: 16)
    case "x":
      if take("{") {
        let scalar = try scalar(digits(radix: 16, maximum: 8, minimum: 1), radix: 16)
        guard take("}") else { throw problem("a character's number is not valid") }
        return scalar
      }
      let scalar = try scalar(digits(radix: 16, maximum: 2, minimum: 1), radix: 16)
      // Oniguruma treats these as single UTF-8 bytes.
      guard scalar.isASCII else { throw problem("bytes are not supported; write \\x{...}") }
      return scalar
    case _ where next.isASCII && next.properties.isAlphabetic || ("1"..."9").contains(next):
      throw problem("the escape \\\(next) is not supported")
    default: return next
    }
  }

  // MARK: Reading

  func peek() -> Unicode.Scalar? { position < source.count ? source[position] : nil }

  mutating func advance() -> Unicode.Scalar? {
    guard position < source.count else { return nil }
    position += 1
    return source[position - 1]
  }

  mutating func take(_ text: String) -> Bool {
    let scalars = text.unicodeScalars
    guard source[position...].starts(with: scalars) else { return false }
    position += scalars.count
    return true
  }

  mutating func take(_ scalar: Unicode.Scalar) -> Bool {
    guard peek() == scalar else { return false }
    position += 1
    return true
  }

  private mutating func number() -> Int? {
    let start = position
    while let next = peek(), ("0"..."9").contains(next), position - start < 6 { position += 1 }
    return Int(String(String.UnicodeScalarView(source[start..<position])))
  }

  private mutating func digits(radix: Int, maximum: Int, minimum: Int) throws(PatternProblem) -> String {
    var digits = ""
    while let next = peek(), digits.count < maximum, next.isASCII,
      let value = Character(next).hexDigitValue, value < radix
    {
      digits += String(next)
      position += 1
    }
    guard digits.count >= minimum else { throw problem("a character's number is not valid") }
    return digits
  }

  mutating func word() -> String {
    let start = position
    while let next = peek(), Self.isWord(next) { position += 1 }
    return String(String.UnicodeScalarView(source[start..<position]))
  }

  private func scalar(_ digits: String, radix: Int) throws(PatternProblem) -> Unicode.Scalar {
    guard let scalar = UInt32(digits.isEmpty ? "0" : digits, radix: radix).flatMap(Unicode.Scalar.init) else {
      throw problem("a character's number is not valid")
    }
    return scalar
  }

  func problem(_ text: String) -> PatternProblem {
    PatternProblem(text: "\(text), at character \(position + 1)")
  }

  // MARK: Writing

  private static func isWord(_ scalar: Unicode.Scalar) -> Bool {
    scalar == "_" || scalar.isASCII && (scalar.properties.isAlphabetic || ("0"..."9").contains(scalar))
  }

  private static func literal(_ scalar: Unicode.Scalar) -> String {
    isWord(scalar) || !scalar.isASCII ? String(scalar) : number(scalar)
  }

  static func number(_ scalar: Unicode.Scalar) -> String {
    "\\x{" + String(scalar.value, radix: 16) + "}"
  }

  private static func bracket(_ set: CharacterItems) -> String {
    (set.negated ? "[^" : "[") + set.text + "]"
  }
}
