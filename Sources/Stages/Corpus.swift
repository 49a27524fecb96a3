import EspalierCore
import EspalierIO
import EspalierTokenizers

/// A text file with the tokenizer that reads it, or a file of tokens.
struct Corpus {
  let path: String
  private let tokenizer: Tokenizer?
  private let specialTokens: Bool

  init(path: String, checkpoint: Checkpoint, specialTokens: Bool) throws {
    self.path = path
    tokenizer = try Self.holdsTokens(path) ? nil : Tokenizer(folder: checkpoint.folder)
    self.specialTokens = specialTokens
  }

  /// Whether the file holds tokens (`input_ids` in safetensors) and needs no tokenizer.
  static func holdsTokens(_ path: String) -> Bool { path.hasSuffix(".safetensors") }

  /// Token ids of each text of the file: a plain file is one text, a .jsonl file one text a line, a file of tokens
  /// one a row.
  ///
  /// - Parameter count: stops after the text with which so many tokens are there; nil reads all.
  func tokens(count: Int? = nil) throws -> [[Int32]] {
    guard let tokenizer else { return try TokenFile.read(path) }
    guard !path.hasSuffix(".gz") else {
      throw EspalierError.badInput("compressed texts are not read; unpack it first (gunzip).", subject: path)
    }
    let bytes = try Folder.read(path, limit: 8 << 30)
    guard !bytes.isEmpty else { throw EspalierError.badInput("the text is empty.", subject: path) }
    guard path.hasSuffix(".jsonl") else { return [try encode(bytes, tokenizer, place: path)] }
    var texts: [[Int32]] = []
    var total = 0
    for (index, line) in bytes.split(separator: UInt8(ascii: "\n")).enumerated() {
      let place = "\(path):\(index + 1)"
      guard let text = try about(place, { try JSON(parsing: Array(line).span.bytes) })["text"]?.string else {
        throw EspalierError.badInput("the line has no \"text\".", subject: place)
      }
      texts.append(try encode(Array(text.utf8), tokenizer, place: place))
      total += texts.last?.count ?? 0
      if let count, total >= count { break }
    }
    return texts
  }

  private func encode(_ bytes: [UInt8], _ tokenizer: Tokenizer, place: String) throws -> [Int32] {
    try about(place) { try tokenizer.encode(bytes, addSpecialTokens: specialTokens) }
  }
}
