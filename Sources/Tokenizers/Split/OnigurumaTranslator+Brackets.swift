/// Brackets: `[a-z\s[:digit:][^x]&&[y]]`.
extension OnigurumaTranslator {
  mutating func bracket(depth: Int) throws(PatternProblem) -> String {
    guard depth <= Self.maximumDepth else { throw problem("brackets are nested too deeply") }
    let negated = take("^")
    var operands = [CharacterUnion()]
    var first = true
    while first || peek() != "]" {
      first = false
      if take("&&") {
        operands.append(CharacterUnion())
      } else if peek() == "[", let set = try posixBracket() {
        operands[operands.count - 1].insert(set)
      } else if take("[") {
        operands[operands.count - 1].nested.append(try bracket(depth: depth + 1))
      } else {
        try bracketItem(into: &operands[operands.count - 1])
      }
    }
    position += 1
    for operand in operands where operand.isEmpty { throw problem("a bracket is empty") }
    guard !ignoresCase || operands.count == 1 && operands[0].nested.isEmpty else {
      throw problem("nested brackets are not supported when case is ignored")
    }
    if operands.count == 1 { return operands[0].pattern(negated: negated) }
    let all = operands.map { "(?=" + $0.pattern(negated: false) + ")" }.joined() + "(?s:.)"
    return negated ? "(?:(?!\(all))(?s:.))" : "(?:\(all))"
  }

  private mutating func bracketItem(into union: inout CharacterUnion) throws(PatternProblem) {
    guard let low = try bracketCharacter(into: &union) else { return }
    let start = position
    guard take("-"), peek() != "]" else {
      position = start
      union.items += Self.number(low)
      return
    }
    // Oniguruma reads a bracket after a dash in its own way.
    guard peek() != "[", !take("&&"), let high = try bracketCharacter(into: &union), low <= high else {
      throw problem("a range of characters is not valid")
    }
    union.items += Self.number(low) + "-" + Self.number(high)
  }

  /// One character of a bracket; nil if it was a set, which is then added to the union.
  private mutating func bracketCharacter(
    into union: inout CharacterUnion
  ) throws(PatternProblem) -> Unicode.Scalar? {
    guard let next = advance() else { throw problem("a bracket is not closed") }
    guard next == "\\" else { return next }
    if let set = try setEscape(outside: false) {
      union.insert(set)
      return nil
    }
    if take("b") { return "\u{8}" }
    return try characterEscape()
  }

  /// `[:alpha:]`; nil if there is none here.
  private mutating func posixBracket() throws(PatternProblem) -> CharacterItems? {
    let start = position
    if take("[:") {
      let negated = take("^")
      let name = word()
      if take(":]") {
        guard var set = CharacterSets.posix(name), !ignoresCase || !set.knowsCase else {
          throw problem("[:\(name):] is not supported here")
        }
        if negated { set.negated.toggle() }
        return set
      }
    }
    position = start
    return nil
  }
}

/// The characters, sets and nested brackets in a bracket expression.
private struct CharacterUnion {
  var items = ""
  /// Expressions that match one character each.
  var nested: [String] = []

  var isEmpty: Bool { items.isEmpty && nested.isEmpty }

  mutating func insert(_ set: CharacterItems) {
    if set.negated { nested.append("[^\(set.text)]") } else { items += set.text }
  }

  func pattern(negated: Bool) -> String {
    if nested.isEmpty { return (negated ? "[^" : "[") + items + "]" }
    let any = ((items.isEmpty ? [] : ["[\(items)]"]) + nested).joined(separator: "|")
    return negated ? "(?:(?!\(any))(?s:.))" : "(?:\(any))"
  }
}
