import EspalierCore
import EspalierTokenizers

/// Turns tokens into text as they come: whole characters only, and nothing of a stop string.
struct TextStream {
  private let tokenizer: Tokenizer
  private let stops: [[UInt8]]
  private var ids: [Int32]
  /// Tokens from here on are decoded: a few before the new ones, since what a token stands for depends on its neighbours.
  private var context: Int
  /// Tokens before this one have become text.
  private var done: Int
  /// Text that may be the beginning of a stop string.
  private var held: [UInt8] = []
  /// Whether a stop string has come.
  private(set) var hasStopped = false

  /// Tokens of the text before that decoding looks at.
  private static let contextTokens = 6

  init(_ tokenizer: Tokenizer, prompt: [Int32], stops: [String]) {
    self.tokenizer = tokenizer
    self.stops = stops.map { Array($0.utf8) }.filter { !$0.isEmpty }
    ids = Array(prompt.suffix(Self.contextTokens))
    context = 0
    done = ids.count
  }

  /// The text that a token completes; empty if it ends within a character, or may be the beginning of a stop string.
  mutating func append(_ id: Int32) throws -> String {
    ids.append(id)
    return try text(isLast: false)
  }

  /// What is left at the end.
  mutating func finish() throws -> String {
    guard !hasStopped else { return "" }
    return try text(isLast: true)
  }

  private mutating func text(isLast: Bool) throws -> String {
    let before = Array(try tokenizer.decode(Array(ids[context..<done]), skipSpecialTokens: true).utf8)
    let now = Array(try tokenizer.decode(Array(ids[context...]), skipSpecialTokens: true).utf8)
    // U+FFFD stands for the beginning of a character.
    if !isLast, now.suffix(3) == [0xEF, 0xBF, 0xBD] { return "" }
    if now.starts(with: before) {
      held += now[before.count...]
    } else {
      held += now
    }
    context = max(done, ids.count - Self.contextTokens)
    done = ids.count
    return released(isLast: isLast)
  }

  /// What of the held text can be written.
  private mutating func released(isLast: Bool) -> String {
    var end = held.count
    for start in held.indices {
      for stop in stops {
        if held[start...].starts(with: stop) {
          hasStopped = true
          end = start
        } else if !isLast, stop.starts(with: held[start...]) {
          end = start
        }
      }
      if end == start { break }
    }
    defer { held.removeSubrange(..<end) }
    return String(decoding: held[..<end], as: UTF8.self)
  }
}
