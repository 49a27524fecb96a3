import EspalierCore
import EspalierIO
import EspalierTokenizers

// What is checked of a corpus before any work.
extension Corpus {
  /// A corpus of no more bytes is checked whole.
  private static let smallByteCount = 1 << 20
  /// Bytes that are checked of a longer text.
  private static let startByteCount = 1 << 16

  /// Checks the start of a corpus: that it is text, of the kind that its name says, and not empty.
  ///
  /// - Returns: the corpus if it is so small that all of it can be checked now; nil if it is larger, or holds tokens.
  /// - Throws: bad input that names file and line.
  static func checked(
    _ path: String, checkpoint: Checkpoint, tokenizer: Tokenizer? = nil, specialTokens: Bool
  ) throws -> Corpus? {
    guard !holdsTokens(path) else { return nil }
    let start = try start(of: path, limit: smallByteCount + 1)
    let isSmall = start.count <= smallByteCount
    let bytes = isSmall ? start : wholePart(start, isLines: holdsLines(path))
    let corpus = try Corpus(
      holding: bytes, path: path, checkpoint: checkpoint, tokenizer: tokenizer, specialTokens: specialTokens)
    // Finds what is no text, and a tokenizer that cannot be read.
    _ = try corpus.tokens(0)
    guard isSmall else { return nil }
    return corpus
  }

  /// The first bytes, unpacked.
  private static func start(of path: String, limit: Int) throws -> [UInt8] {
    if let packing = Packing(path: path) { return try packing.start(of: path, limit: limit) }
    let file = try Folder.file(path)
    return try file.bytes(0..<min(limit, file.size()))
  }

  /// Bytes at the start that end with a line or, of a text or of a line without an end, with a character.
  private static func wholePart(_ bytes: [UInt8], isLines: Bool) -> [UInt8] {
    if isLines, let end = bytes.lastIndex(of: UInt8(ascii: "\n")) { return Array(bytes[...end]) }
    var end = startByteCount
    while end > 0, bytes[end] & 0xC0 == 0x80 { end -= 1 }
    return Array(bytes[..<end])
  }
}
