import EspalierCore
import EspalierIO
import EspalierTokenizers

/// A text file with the tokenizer that reads it.
struct Corpus {
  let path: String
  private let tokenizer: Tokenizer
  private let specialTokens: Bool

  init(path: String, checkpoint: Checkpoint, specialTokens: Bool) throws {
    self.path = path
    tokenizer = try Tokenizer(folder: checkpoint.folder)
    self.specialTokens = specialTokens
  }

  /// Token ids of each text of the file: a plain file is one text, a .jsonl file one text a line.
  ///
  /// - Parameter count: stops after the text with which so many tokens are there; nil reads all.
  func tokens(count: Int? = nil) throws -> [[Int32]] {
    guard !path.hasSuffix(".gz") else {
      throw EspalierError.badInput("compressed texts are not read; unpack it first (gunzip).", subject: path)
    }
    let bytes = try Folder.read(path, limit: 8 << 30)
    guard !bytes.isEmpty else { throw EspalierError.badInput("the text is empty.", subject: path) }
    guard path.hasSuffix(".jsonl") || path.hasSuffix(".json") else { return [try encode(bytes, place: path)] }
    var texts: [[Int32]] = []
    var total = 0
    for (index, line) in bytes.split(separator: UInt8(ascii: "\n")).enumerated() {
      let place = "\(path):\(index + 1)"
      guard let text = try about(place, { try JSON(parsing: Array(line).span.bytes) })["text"]?.string else {
        throw EspalierError.badInput("the line has no \"text\".", subject: place)
      }
      texts.append(try encode(Array(text.utf8), place: place))
      total += texts.last?.count ?? 0
      if let count, total >= count { break }
    }
    return texts
  }

  private func encode(_ bytes: [UInt8], place: String) throws -> [Int32] {
    try about(place) { try tokenizer.encode(bytes, addSpecialTokens: specialTokens) }
  }
}
