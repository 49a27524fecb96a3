import EspalierCore

/// A text being normalized.
struct NormalizedText {
  var bytes: [UInt8]
  /// How many leading bytes come from the first character of the whole input; `Metaspace` needs it.
  var head: Int
}

/// One step of normalization.
enum Normalizer: Sendable {
  case form(NormalForm)
  case lowercase
  case stripAccents
  case strip(left: Bool, right: Bool)
  case prepend([UInt8])
  case replace(TextPattern, with: [UInt8])
  case byteLevel
  case clean
  case spaceIdeographs
  case stripNonspacingMarks
  case translationSpaces
  case mapCharacters(CharacterMap)

  func apply(to text: inout NormalizedText) throws {
    guard !text.bytes.isEmpty else { return }
    switch self {
    case .form(let form): text.normalize(form)
    case .lowercase: text.map(Self.lowercased)
    case .stripAccents: text.map(Self.withoutAccents)
    case .clean: text.map(Self.cleaned)
    case .spaceIdeographs: text.map(Self.withSpacedIdeographs)
    case .stripNonspacingMarks: text.map(Self.withoutNonspacingMarks)
    case .translationSpaces: text.map(Self.translationSpaces)
    case .mapCharacters(let map): try text.map(map.normalized)
    case .byteLevel:
      text.map {
        var output: [UInt8] = []
        ByteLevelAlphabet.append($0, to: &output)
        return output
      }
    case .strip(let left, let right): text.strip(left: left, right: right)
    case .prepend(let prefix):
      text.bytes.insert(contentsOf: prefix, at: 0)
      if text.head > 0 { text.head += prefix.count }
    case .replace(let pattern, let content): try text.replace(pattern, with: content)
    }
  }

  /// Applies several steps in order.
  static func apply(_ steps: [Normalizer], to text: inout NormalizedText) throws {
    let start = text.bytes.count
    for step in steps {
      try step.apply(to: &text)
      try Limits.checkGrowth(from: start, to: text.bytes.count)
    }
  }

  private static func lowercased(_ text: Span<UInt8>) -> [UInt8] {
    var output: [UInt8] = []
    output.reserveCapacity(text.count)
    var index = 0
    while index < text.count {
      let (scalar, width) = text.scalar(at: index)
      if scalar.isASCII {
        output.append((0x41...0x5A).contains(text[index]) ? text[index] | 0x20 : text[index])
      } else {
        output.append(contentsOf: scalar.properties.lowercaseMapping.utf8)
      }
      index += width
    }
    return output
  }

  private static func withoutAccents(_ text: Span<UInt8>) -> [UInt8] {
    text.mappingScalars { scalar, output in
      if !scalar.isCombiningMark { output.append(scalar) }
    }
  }
}

extension NormalizedText {
  /// Applies `transform` to the text, and updates the head.
  fileprivate mutating func map(_ function: (Span<UInt8>) throws -> [UInt8]) rethrows {
    let result = try function(bytes.span)
    head = head == 0 ? 0 : min(try function(bytes.span.extracting(first: head)).count, result.count)
    bytes = result
  }

  fileprivate mutating func normalize(_ form: NormalForm) {
    let result = form.normalized(bytes.span)
    if head > 0 {
      // Marks of later characters can move before the head's own marks, or compose with its last character.
      let alone = form.normalized(bytes.span.extracting(first: head))
      head = zip(alone, result).prefix { $0 == $1 }.count
      while head > 0, head < result.count, result[head] & 0xC0 == 0x80 { head -= 1 }
      if head < result.count, head == 0 || form.isComposed && head < alone.count {
        head += UTF8.width(ofLead: result[head])
      }
    }
    bytes = result
  }

  fileprivate mutating func strip(left: Bool, right: Bool) {
    var start = 0
    var end = bytes.count
    while left, start < end {
      let (scalar, width) = bytes.span.scalar(at: start)
      guard scalar.isSpace else { break }
      start += width
    }
    while right, start < end {
      let (scalar, width) = bytes.span.scalar(before: end)
      guard scalar.isSpace else { break }
      end -= width
    }
    bytes = Array(bytes[start..<end])
    head = min(max(0, head - start), bytes.count)
  }

  fileprivate mutating func replace(_ pattern: TextPattern, with content: [UInt8]) throws {
    var output: [UInt8] = []
    output.reserveCapacity(bytes.count)
    var newHead = 0
    var end = 0
    let head = head
    let source = bytes
    let text = source.span
    try pattern.forEachMatch(in: text) { match in
      output.append(text.extracting(end..<match.lowerBound))
      newHead += max(0, min(match.lowerBound, head) - end)
      output.append(contentsOf: content)
      if match.upperBound <= head { newHead += content.count }
      end = match.upperBound
      try Limits.checkGrowth(from: text.count, to: output.count)
    }
    output.append(text.extracting(end...))
    newHead += max(0, min(text.count, head) - end)
    bytes = output
    self.head = newHead
  }
}
