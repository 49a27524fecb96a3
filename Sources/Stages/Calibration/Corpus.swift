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

  /// A corpus of bytes in memory.
  ///
  /// - Parameter path: of the file that they come from, whose name says how they are read.
  init(
    holding bytes: [UInt8], path: String, checkpoint: Checkpoint, tokenizer known: Tokenizer? = nil,
    specialTokens: Bool
  ) throws {
    let tokenizer = try known ?? Tokenizer(folder: checkpoint.folder)
    texts = try Self.texts(of: File(holding: bytes, name: path), path)
    self.path = path
    self.tokenizer = tokenizer
    self.specialTokens = specialTokens
  }

  private static func texts(
    _ path: String, _ scratch: String, _ progress: (Int, Int) throws -> Void
  ) throws -> Texts {
    if holdsTokens(path) { return .tokens(try TokenFile.read(path)) }
    return try texts(of: open(path, scratch, progress), path)
  }

  private static func texts(of file: consuming File, _ path: String) throws -> Texts {
    try ForeignFile.refuse(path, startingWith: file.bytes(0..<min(ForeignFile.startByteCount, file.size())))
    guard holdsLines(path) else {
      guard try file.size() > 0 else { throw empty(path) }
      return .whole(file)
    }
    let lines = try TextLines(file, path: path)
    guard lines.count > 0 else { throw empty(path) }
    return .lines(lines)
  }

  private static func empty(_ path: String) -> EspalierError {
    .badInput("the text is empty.", subject: path)
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
      return try encode(Array(Self.text(bytes, place).utf8), place: place)
    }
  }

  /// The text in a line of JSON.
  private static func text(_ line: [UInt8], _ place: String) throws -> String {
    let kind = "a file of this name is read as JSON lines"
    let found: String
    var cause: (any Error)?
    do {
      let json = try JSON(parsing: line.span.bytes)
      if let text = json["text"]?.string { return text }
      found = json.object.map { " It has \($0.members.map(\.key).joined(separator: ", "))." } ?? ""
    } catch {
      found = ""
      cause = error
    }
    let isList = line.first { $0 != 0x20 && $0 != 0x09 } == UInt8(ascii: "[")
    throw EspalierError(
      .badInput,
      "the line is no JSON object with a \"text\"; \(kind).\(found)\(isList ? " Of a list, jq -c '.[]' makes such lines." : "")",
      subject: place, cause: cause)
  }

  private func encode(_ bytes: [UInt8], place: String) throws -> [Int32] {
    try about(place) { try tokenizer?.encode(bytes, addSpecialTokens: specialTokens) ?? [] }
  }
}
