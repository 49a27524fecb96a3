import EspalierCore
import EspalierIO
import EspalierTestSupport
import EspalierTokenizers
import Testing

@testable import EspalierGeneration

@Suite struct TextStreamTests {
  private static let tokenizers = ((try? Folder.names(in: Places.golden + "/tokenizers")) ?? []).filter {
    $0.hasSuffix(".json")
  }
  private static let text = "Hello, wörld! 你好 👩‍👩‍👧 naïve\n\n  \"quoted\" 🏳️‍🌈 the end."

  private func tokenizer(_ file: String) throws -> Tokenizer {
    try Tokenizer(json: Folder.readJSON(Places.golden + "/tokenizers/" + file))
  }

  /// The pieces of the text of some tokens, after others.
  private func pieces(_ tokenizer: Tokenizer, _ prompt: [Int32], _ ids: [Int32], stops: [String] = [])
    throws -> (pieces: [String], hasStopped: Bool)
  {
    var stream = TextStream(tokenizer, prompt: prompt, stops: stops)
    var pieces: [String] = []
    for id in ids where !stream.hasStopped { pieces.append(try stream.append(id)) }
    pieces.append(try stream.finish())
    return (pieces, stream.hasStopped)
  }

  @Test(arguments: tokenizers)
  func piecesAreTheTextOfTheTokens(file: String) throws {
    let tokenizer = try tokenizer(file)
    let ids = try tokenizer.encode(Self.text, addSpecialTokens: false)
    for start in [0, 1, ids.count / 2] where start < ids.count {
      let (prompt, rest) = (Array(ids[..<start]), Array(ids[start...]))
      let whole = try tokenizer.decode(ids, skipSpecialTokens: true)
      let before = try tokenizer.decode(prompt, skipSpecialTokens: true)
      // Where a prompt ends within a character, or is decoded otherwise alone, there is no text of its own.
      guard whole.utf8.starts(with: before.utf8), !before.hasSuffix("\u{FFFD}") else { continue }
      let (pieces, _) = try pieces(tokenizer, prompt, rest)
      #expect(Array(pieces.joined().utf8) == Array(whole.utf8.dropFirst(before.utf8.count)))
      if !whole.contains("\u{FFFD}") { #expect(!pieces.contains { $0.contains("\u{FFFD}") }) }
    }
  }

  @Test func noCharacterIsCut() throws {
    let tokenizer = try tokenizer("unigram-bytes.json")
    let ids = try tokenizer.encode("ok 👍🏽", addSpecialTokens: false)
    let (pieces, _) = try pieces(tokenizer, [], ids)
    #expect(pieces.joined() == "ok 👍🏽")
    #expect(ids.count > 4)
  }

  @Test func nothingOfAStopStringIsWritten() throws {
    for file in Self.tokenizers {
      let tokenizer = try tokenizer(file)
      let ids = try tokenizer.encode("one two three four", addSpecialTokens: false)
      let whole = try tokenizer.decode(ids, skipSpecialTokens: true)
      guard let place = whole.firstRange(of: "thr") else { continue }
      let (some, hasStopped) = try pieces(tokenizer, [], ids, stops: ["never", "thr"])
      #expect(hasStopped)
      #expect(some.joined() == String(whole[..<place.lowerBound]))
      // The beginning of one that does not come is written in the end.
      let (all, isStopped) = try pieces(tokenizer, [], ids, stops: ["fourteen", "two threw"])
      #expect(!isStopped)
      #expect(all.joined() == whole)
    }
  }
}
