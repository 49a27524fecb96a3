import EspalierCore
import EspalierIO
import EspalierTokenizers

/// The texts of a file, turned into tokens one by one. A plain file is one text; each line of JSON lines (`.jsonl`, `.json`,
/// `.ndjson`) holds one as "text"; each row of a file of tokens (`.safetensors`) is one. All but tokens may be packed (`.gz`, `.zst`).
struct Corpus: ~Copyable {
  private enum Texts: ~Copyable {
    case whole(File)
    case lines(TextLines)
    case tokens([[Int32]])
  }

  /// The largest size in bytes of a text that is read at once.
  private static let longest = 8 << 30

  let path: String
  private let texts: Texts
  private let tokenizer: Tokenizer?
  private let specialTokens: Bool

  /// - Parameters:
  ///   - tokenizer: that of the checkpoint, if it is known already.
  ///   - scratch: a folder in which a packed file is unpacked; nothing is left there.
  init(
    path: String, checkpoint: Checkpoint, tokenizer known: Tokenizer? = nil, specialTokens: Bool,
    scratch: String, progress: (_ done: Int, _ of: Int) throws -> Void = { _, _ in }
  ) throws {
    let tokenizer = try Self.holdsTokens(path) ? nil : known ?? Tokenizer(folder: checkpoint.folder)
    texts = try Self.texts(path, scratch, progress)
    self.path = path
    self.tokenizer = tokenizer
    self.specialTokens = specialTokens
  }

  private static func texts(
    _ path: String, _ scratch: String, _ progress: (Int, Int) throws -> Void
  ) throws -> Texts {
    if holdsTokens(path) { return .tokens(try TokenFile.read(path)) }
    let file = try open(path, scratch, progress)
    guard try file.size() > 0 else { throw EspalierError.badInput("the text is empty.", subject: path) }
    return holdsLines(path) ? .lines(try TextLines(file, path: path)) : .whole(file)
  }

  private static func open(
    _ path: String, _ scratch: String, _ progress: (Int, Int) throws -> Void
  ) throws -> File {
    guard let packing = Packing(path: path) else { return try Folder.file(path) }
    let unpacked = scratch + "/unpacked-text"
    // The open file stays readable, and is gone even if this process is killed.
    defer { try? Folder.remove(unpacked) }
    try packing.unpack(path, to: unpacked, progress: progress)
    return try File(reading: unpacked)
  }

  /// How a file of this name is read.
  static func kind(_ path: String) -> String {
    (holdsTokens(path) ? "tokens" : holdsLines(path) ? "lines" : "text")
      + (Packing(path: path)?.rawValue ?? "")
  }

  /// Memory of a tokenizer with its merges; measured: about 400 bytes for each token of the vocabulary.
  static func tokenizerBytes(vocabulary: Int) -> Int { 400 * vocabulary }

  /// Whether the file holds tokens (`input_ids` in safetensors) and needs no tokenizer.
  static func holdsTokens(_ path: String) -> Bool { path.hasSuffix(".safetensors") }

  static func holdsLines(_ path: String) -> Bool {
    let name = Packing(path: path)?.unpackedName(path) ?? path
    return endingsOfLines.contains { name.hasSuffix($0) }
  }

  private static let endingsOfLines = [".jsonl", ".json", ".ndjson"]

  /// The endings of files that a folder of texts stands for.
  static let endings =
    ([".txt"] + endingsOfLines).flatMap { ending in [ending] + Packing.allCases.map { ending + $0.rawValue } }
    + [".safetensors"]

  /// The number of texts.
  var count: Int {
    switch texts {
    case .whole: 1
    case .lines(let lines): lines.count
    case .tokens(let rows): rows.count
    }
  }

  /// The tokens of one text.
  ///
  /// - Throws: bad input that names the line.
  func tokens(_ index: Int) throws -> [Int32] {
    switch texts {
    case .tokens(let rows): return rows[index]
    case .whole(let file):
      let size = try file.size()
      guard size <= Self.longest else {
        throw EspalierError.badInput(
          "the text has \(size) bytes; at most \(Self.longest) are read as one. Give many texts in JSON lines (.jsonl).",
          subject: path)
      }
      return try encode(file.bytes(0..<size), place: path)
    case .lines(let lines):
      let (number, bytes) = try lines.line(index)
      let place = "\(path):\(number)"
      guard let text = (try? JSON(parsing: bytes.span.bytes))?["text"]?.string else {
        throw EspalierError.badInput(
          "the line is no JSON object with a \"text\"; a file of this name is read as JSON lines.",
          subject: place)
      }
      return try encode(Array(text.utf8), place: place)
    }
  }

  private func encode(_ bytes: [UInt8], place: String) throws -> [Int32] {
    try about(place) { try tokenizer?.encode(bytes, addSpecialTokens: specialTokens) ?? [] }
  }
}
