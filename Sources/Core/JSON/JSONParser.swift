extension JSON {
  /// Limits on what a JSON text can make the parser do.
  public struct Limits: Sendable {
    /// Nesting depth of arrays and objects.
    public var depth = 64
    /// Number of values in the whole text; the largest vocabularies with their merges have two million.
    public var values = 4_000_000

    public init() {}
  }

  /// Parses a whole JSON text (RFC 8259, UTF-8) strictly: no duplicate keys, no trailing text, no NaN, no lone surrogates, nothing deeper
  /// or larger than `limits`.
  ///
  /// - Throws: bad input with the problem, line and column.
  public init(parsing bytes: RawSpan, limits: Limits = Limits()) throws {
    self = try bytes.withUnsafeBytes { buffer in
      var parser = JSONParser(bytes: buffer, limits: limits)
      return try parser.parseDocument()
    }
  }

  /// Parses a string; see ``init(parsing:limits:)``.
  public init(parsing text: String, limits: Limits = Limits()) throws {
    self = try Array(text.utf8).withUnsafeBytes { buffer in
      var parser = JSONParser(bytes: buffer, limits: limits)
      return try parser.parseDocument()
    }
  }
}

/// A recursive-descent parser over bytes; the depth limit bounds its recursion.
private struct JSONParser {
  let bytes: UnsafeRawBufferPointer
  let limits: JSON.Limits
  var position = 0
  var valueCount = 0

  init(bytes: UnsafeRawBufferPointer, limits: JSON.Limits) {
    self.bytes = bytes
    self.limits = limits
  }

  mutating func parseDocument() throws -> JSON {
    let value = try parseValue(depth: 0)
    skipSpace()
    guard position == bytes.count else { throw failure("there is text after the end of the value") }
    return value
  }

  private mutating func parseValue(depth: Int) throws -> JSON {
    guard depth <= limits.depth else { throw failure("values are nested more than \(limits.depth) deep") }
    valueCount += 1
    guard valueCount <= limits.values else { throw failure("there are more than \(limits.values) values") }
    skipSpace()
    guard let byte = peek() else { throw failure("the text ends where a value is expected") }
    switch byte {
    case UInt8(ascii: "{"): return .object(try parseObject(depth: depth))
    case UInt8(ascii: "["): return .array(try parseArray(depth: depth))
    case UInt8(ascii: "\""): return .string(try parseString())
    case UInt8(ascii: "t"): return try parseWord("true", .bool(true))
    case UInt8(ascii: "f"): return try parseWord("false", .bool(false))
    case UInt8(ascii: "n"): return try parseWord("null", .null)
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return try parseNumber()
    default: throw failure("a value is expected")
    }
  }

  private mutating func parseObject(depth: Int) throws -> JSONObject {
    position += 1
    var members: [(key: String, value: JSON)] = []
    var keys = Set<[UInt8]>()
    skipSpace()
    if take(UInt8(ascii: "}")) { return JSONObject() }
    while true {
      skipSpace()
      guard peek() == UInt8(ascii: "\"") else { throw failure("a key in double quotes is expected") }
      let start = position
      let key = try parseString()
      guard isNew(key, members, &keys) else {
        position = start
        throw failure("the key \"\(key.prefix(80))\" occurs twice")
      }
      skipSpace()
      guard take(UInt8(ascii: ":")) else { throw failure("a colon is expected after the key") }
      members.append((key: key, value: try parseValue(depth: depth + 1)))
      skipSpace()
      if take(UInt8(ascii: "}")) { return JSONObject(members) }
      guard take(UInt8(ascii: ",")) else { throw failure("a comma or } is expected") }
    }
  }

  /// Whether no member has exactly this key. `keys` is filled only for objects with more than a few members.
  private func isNew(_ key: String, _ members: [(key: String, value: JSON)], _ keys: inout Set<[UInt8]>)
    -> Bool
  {
    guard members.count >= 8 else { return !members.contains { $0.key.utf8.elementsEqual(key.utf8) } }
    if keys.isEmpty { keys = Set(members.map { Array($0.key.utf8) }) }
    return keys.insert(Array(key.utf8)).inserted
  }

  private mutating func parseArray(depth: Int) throws -> [JSON] {
    position += 1
    var elements: [JSON] = []
    skipSpace()
    if take(UInt8(ascii: "]")) { return [] }
    while true {
      elements.append(try parseValue(depth: depth + 1))
      skipSpace()
      if take(UInt8(ascii: "]")) { return elements }
      guard take(UInt8(ascii: ",")) else { throw failure("a comma or ] is expected") }
    }
  }

  private mutating func parseWord(_ word: StaticString, _ value: JSON) throws -> JSON {
    for index in 0..<word.utf8CodeUnitCount {
      guard peek() == word.utf8Start[index] else { throw failure("a value is expected") }
      position += 1
    }
    return value
  }

  private mutating func parseNumber() throws -> JSON {
    let start = position
    var isInteger = true
    _ = take(UInt8(ascii: "-"))
    if take(UInt8(ascii: "0")) {
    } else {
      guard skipDigits() > 0 else { throw failure("a digit is expected") }
    }
    if take(UInt8(ascii: ".")) {
      isInteger = false
      guard skipDigits() > 0 else { throw failure("a digit is expected after the point") }
    }
    if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
      isInteger = false
      if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
      guard skipDigits() > 0 else { throw failure("a digit is expected in the exponent") }
    }
    let text = String(decoding: bytes[start..<position], as: UTF8.self)
    if isInteger, let value = Int(text) { return .integer(value) }
    guard position - start <= 400, let value = Double(text), value.isFinite else {
      position = start
      throw failure("the number is too large")
    }
    return .number(value)
  }

  private mutating func skipDigits() -> Int {
    let start = position
    while let byte = peek(), byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") { position += 1 }
    return position - start
  }

  private mutating func parseString() throws -> String {
    position += 1
    let start = position
    while let byte = peek(), byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\"), byte >= 0x20 {
      position += 1
    }
    if peek() == UInt8(ascii: "\"") {
      defer { position += 1 }
      return try validated(bytes[start..<position], at: start)
    }
    var decoded = Array(bytes[start..<position])
    while true {
      guard let byte = peek() else { throw failure("the text ends inside a string") }
      position += 1
      switch byte {
      case UInt8(ascii: "\""): return try validated(decoded, at: start)
      case UInt8(ascii: "\\"): try parseEscape(into: &decoded)
      case 0..<0x20:
        position -= 1
        throw failure("a string contains a control character; write it as an escape")
      default: decoded.append(byte)
      }
    }
  }

  private mutating func parseEscape(into decoded: inout [UInt8]) throws {
    guard let byte = peek() else { throw failure("the text ends inside a string") }
    position += 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): decoded.append(byte)
    case UInt8(ascii: "b"): decoded.append(0x08)
    case UInt8(ascii: "f"): decoded.append(0x0C)
    case UInt8(ascii: "n"): decoded.append(0x0A)
    case UInt8(ascii: "r"): decoded.append(0x0D)
    case UInt8(ascii: "t"): decoded.append(0x09)
    case UInt8(ascii: "u"):
      var value = try parseHexadecimal()
      if (0xD800..<0xDC00).contains(value), take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")) {
        let low = try parseHexadecimal()
        guard (0xDC00..<0xE000).contains(low) else { throw failure("a surrogate has no partner") }
        value = 0x10000 + (value - 0xD800) << 10 + (low - 0xDC00)
      }
      guard let scalar = Unicode.Scalar(value) else { throw failure("a surrogate has no partner") }
      decoded.append(contentsOf: UTF8.encode(scalar)!)
    default: throw failure("a string contains an unknown escape")
    }
  }

  private mutating func parseHexadecimal() throws -> UInt32 {
    var value: UInt32 = 0
    for _ in 0..<4 {
      guard let byte = peek(), let digit = Character(Unicode.Scalar(byte)).hexDigitValue, byte < 0x80 else {
        throw failure("four hexadecimal digits are expected")
      }
      value = value << 4 | UInt32(digit)
      position += 1
    }
    return value
  }

  private func validated(_ utf8: some Collection<UInt8>, at start: Int) throws -> String {
    guard let string = String(validating: utf8, as: UTF8.self) else {
      throw failure("a string is not valid UTF-8", at: start)
    }
    return string
  }

  private func peek() -> UInt8? { position < bytes.count ? bytes[position] : nil }

  private mutating func take(_ byte: UInt8) -> Bool {
    guard peek() == byte else { return false }
    position += 1
    return true
  }

  private mutating func skipSpace() {
    while let byte = peek(), byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position += 1 }
  }

  private func failure(_ problem: String, at offset: Int? = nil) -> EspalierError {
    let end = min(offset ?? position, bytes.count)
    var line = 1
    var column = 1
    for byte in bytes[0..<end] {
      column += 1
      if byte == 0x0A { (line, column) = (line + 1, 1) }
    }
    return .badInput("\(problem) (line \(line), column \(column)). The file is not valid JSON.")
  }
}
