import EspalierCore

/// One step of splitting a text into the words that the model sees.
enum PreTokenizer: Sendable {
  case byteLevel(addPrefixSpace: Bool, pattern: Pattern?)
  case metaspace(Metaspace)
  case split(TextPattern, SplitBehavior, inverted: Bool)
  case characters(CharacterKind, SplitBehavior)
  /// Pieces of this many characters.
  case fixedLength(Int)

  /// Classes of characters to split at.
  enum CharacterKind: Sendable {
    case space, number, punctuation
  }

  /// The step `Metaspace`: spaces are replaced with a visible character that begins a word.
  struct Metaspace: Sendable {
    enum Scheme: Sendable {
      case first, never, always
    }

    let replacement: [UInt8]
    let scheme: Scheme
    let splits: Bool
  }

  var isByteLevel: Bool { if case .byteLevel = self { true } else { false } }

  /// Calls `body` with each piece of `text` and how many of its bytes come from the input's first character.
  func split(
    _ text: Span<UInt8>, head: Int, _ pool: BufferPool, _ emit: (Span<UInt8>, Int) throws -> Void
  ) throws {
    func piece(of text: Span<UInt8>, _ range: Range<Int>, head: Int) throws {
      try emit(text.extracting(range), min(max(0, head - range.lowerBound), range.count))
    }
    switch self {
    case .byteLevel(let addPrefixSpace, let pattern):
      guard addPrefixSpace, text[0] != 0x20 else {
        return try Self.splitBytes(text, head: head, pattern, pool, emit)
      }
      try pool.withBuffer { spaced in
        spaced.append(0x20)
        spaced.append(text)
        try Self.splitBytes(spaced.span, head: head > 0 ? head + 1 : 0, pattern, pool, emit)
      }
    case .metaspace(let metaspace):
      try metaspace.split(text, head: head, pool, emit)
    case .split(let pattern, let behavior, let inverted):
      var splitter = Splitter(behavior, inverted: inverted)
      try pattern.forEachMatch(in: text) { match in
        try splitter.match(match) { try piece(of: text, $0, head: head) }
      }
      try splitter.finish(count: text.count) { try piece(of: text, $0, head: head) }
    case .characters(let kind, let behavior):
      var splitter = Splitter(behavior)
      var index = 0
      while index < text.count {
        let (scalar, width) = text.scalar(at: index)
        if kind.contains(scalar) {
          try splitter.match(index..<index + width) { try piece(of: text, $0, head: head) }
        }
        index += width
      }
      try splitter.finish(count: text.count) { try piece(of: text, $0, head: head) }
    case .fixedLength(let length):
      var start = 0
      while start < text.count {
        var end = start
        var characters = 0
        while characters < length, end < text.count {
          end += UTF8.width(ofLead: text[end])
          characters += 1
        }
        try piece(of: text, start..<end, head: head)
        start = end
      }
    }
  }

  /// Splits at the pattern, and writes each piece in the characters that represent its bytes.
  private static func splitBytes(
    _ text: Span<UInt8>, head: Int, _ pattern: Pattern?, _ pool: BufferPool,
    _ emit: (Span<UInt8>, Int) throws -> Void
  ) throws {
    try pool.withBuffer { mapped in
      func word(_ range: Range<Int>) throws {
        mapped.removeAll(keepingCapacity: true)
        let headEnd = min(max(head, range.lowerBound), range.upperBound)
        ByteLevelAlphabet.append(text.extracting(range.lowerBound..<headEnd), to: &mapped)
        let mappedHead = mapped.count
        ByteLevelAlphabet.append(text.extracting(headEnd..<range.upperBound), to: &mapped)
        try emit(mapped.span, mappedHead)
      }
      guard let pattern else { return try word(0..<text.count) }
      var splitter = Splitter(.isolated)
      try pattern.forEachMatch(in: text) { try splitter.match($0, word) }
      try splitter.finish(count: text.count, word)
    }
  }

  /// Applies several steps; each works on every piece of the previous one.
  static func split(
    _ text: Span<UInt8>, head: Int, by steps: ArraySlice<PreTokenizer>, _ pool: BufferPool,
    _ emit: (Span<UInt8>) throws -> Void
  ) throws {
    guard let step = steps.first else { return try emit(text) }
    try step.split(text, head: head, pool) { piece, head in
      try split(piece, head: head, by: steps.dropFirst(), pool, emit)
    }
  }
}

extension PreTokenizer.CharacterKind {
  fileprivate func contains(_ scalar: Unicode.Scalar) -> Bool {
    switch self {
    case .space: scalar.isSpace
    case .number: scalar.isNumber
    case .punctuation: scalar.isPunctuation
    }
  }
}

extension PreTokenizer.Metaspace {
  fileprivate func split(
    _ text: Span<UInt8>, head: Int, _ pool: BufferPool, _ emit: (Span<UInt8>, Int) throws -> Void
  ) throws {
    try pool.withBuffer { replaced in
      let prepends =
        switch scheme {
        case .always: true
        case .first: head > 0
        case .never: false
        }
      if prepends, text[0] != 0x20, !text.starts(with: replacement) {
        replaced.append(contentsOf: replacement)
      }
      // The prepended character, and its replacement, count as part of the first character.
      var newHead = head > 0 ? replaced.count : 0
      for index in text.indices {
        if text[index] == 0x20 {
          replaced.append(contentsOf: replacement)
        } else {
          replaced.append(text[index])
        }
        if index < head { newHead = replaced.count }
      }
      let words = replaced.span
      guard splits else { return try emit(words, newHead) }
      let pattern = TextPattern.literal(replacement)
      func piece(_ range: Range<Int>) throws {
        try emit(words.extracting(range), min(max(0, newHead - range.lowerBound), range.count))
      }
      var splitter = Splitter(.mergedWithNext)
      try pattern.forEachMatch(in: words) { try splitter.match($0, piece) }
      try splitter.finish(count: words.count, piece)
    }
  }
}

/// Reusable buffers for pieces; belongs to one call of `encode`.
final class BufferPool {
  private var free: [[UInt8]] = []

  func withBuffer<Result>(_ body: (inout [UInt8]) throws -> Result) rethrows -> Result {
    var buffer = free.popLast() ?? []
    buffer.removeAll(keepingCapacity: true)
    defer { free.append(buffer) }
    return try body(&buffer)
  }
}
