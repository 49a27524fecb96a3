import EspalierCore
import EspalierIO

/// The files of a tokenizer that is published without a `tokenizer.json`.
///
/// ``json()`` combines them as Hugging Face's library `transformers` (version 5) does.
public struct TokenizerParts: Sendable {
  /// `vocab.json`: tokens and ids.
  public var vocabulary: JSON?
  /// `merges.txt`: two tokens per line.
  public var merges: String?
  /// `vocab.txt`: one token per line; its id is the line number.
  public var words: String?
  /// `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
  public var settings: JSON?
  public var specialTokens: JSON?
  public var addedTokens: JSON?
  /// `config.json` of the model.
  public var model: JSON?

  /// The names of these files.
  public static let fileNames = [
    "vocab.json", "merges.txt", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "config.json",
  ]

  private static let sizeLimit = 256 << 20

  /// No files yet.
  public init() {}

  /// Reads those of the files that a folder has.
  ///
  /// - Throws: an I/O error or bad input that names the file.
  public init(folder: String) throws {
    func json(_ name: String) throws -> JSON? {
      let path = folder + "/" + name
      return try Folder.entry(path) == nil ? nil : Folder.readJSON(path, limit: Self.sizeLimit)
    }
    func text(_ name: String) throws -> String? {
      let path = folder + "/" + name
      guard try Folder.entry(path) != nil else { return nil }
      guard let text = String(validating: try Folder.read(path, limit: Self.sizeLimit), as: UTF8.self) else {
        throw EspalierError.badInput("the file is not valid UTF-8.", subject: path)
      }
      return text
    }
    vocabulary = try json("vocab.json")
    merges = try text("merges.txt")
    words = try text("vocab.txt")
    settings = try json("tokenizer_config.json")
    specialTokens = try json("special_tokens_map.json")
    addedTokens = try json("added_tokens.json")
    model = try json("config.json")
  }

  /// The same tokenizer as a `tokenizer.json`.
  ///
  /// - Throws: bad input if a file is missing or invalid, or the tokenizer's family is unknown.
  public func json() throws -> JSON {
    let family = try family()
    let vocabulary = try family == .bert ? wordList() : pairs()
    let names = try SpecialTokens(self, defaults: family.names)
    let tokens = try names.added(to: vocabulary)
    let setting = PartSettings(node: node(settings, "tokenizer_config.json"), names: names, tokens: tokens)
    var members: [(key: String, value: JSON)] = [
      ("version", "1.0"), ("added_tokens", .array(tokens)),
      ("pre_tokenizer", try family.preTokenizer(setting)), ("decoder", family.decoder),
      ("model", try model(family, vocabulary, setting)),
    ]
    if let normalizer = try family.normalizer(setting) { members.append(("normalizer", normalizer)) }
    if let processor = try family.postProcessor(setting) { members.append(("post_processor", processor)) }
    return .object(JSONObject(members))
  }

  func node(_ json: JSON?, _ name: String) -> JSONNode {
    JSONNode(json: json ?? .object(JSONObject()), path: name)
  }

  /// The family of the tokenizer's class, otherwise that of the model's type.
  private func family() throws -> TokenizerFamily {
    let named =
      try node(settings, "tokenizer_config.json").optional("tokenizer_class")?.string()
      ?? node(model, "config.json").optional("tokenizer_class")?.string()
    let type = try node(model, "config.json").optional("model_type")?.string()
    if let family = named.flatMap(TokenizerFamily.init(className:)) { return family }
    if let family = type.flatMap(TokenizerFamily.init(modelType:)) { return family }
    let what = named.map { "tokenizer_class \"\($0)\"" } ?? type.map { "model_type \"\($0)\"" }
    throw EspalierError.badInput(
      "no file here says how \(what ?? "this model") splits text; make a tokenizer.json with transformers' AutoTokenizer."
    )
  }

  private func pairs() throws -> JSONNode {
    guard let vocabulary else {
      throw EspalierError.badInput("merges.txt is there, but vocab.json is missing.")
    }
    return JSONNode(json: vocabulary, path: "vocab.json")
  }

  /// The lines of `vocab.txt`, without trailing white space; if lines are equal, the last one wins.
  private func wordList() throws -> JSONNode {
    guard let words else { throw EspalierError.badInput("vocab.txt is missing.") }
    var lines = words.unicodeScalars.split(separator: "\n", omittingEmptySubsequences: false)
    if lines.last?.isEmpty == true { lines.removeLast() }
    var table = ByteStringTable(minimumCapacity: lines.count)
    var members: [(key: String, value: JSON)] = []
    for (id, line) in lines.enumerated() {
      var line = line
      while let last = line.last, last.isSpace { line.removeLast() }
      let word = String(line)
      if table.insert(word.utf8.span) != nil {
        members.append((word, .integer(id)))
      } else if let place = table.find(word.utf8.span) {
        members[place].value = .integer(id)
      }
    }
    return JSONNode(json: .object(JSONObject(members)), path: "vocab.txt")
  }

  private func model(_ family: TokenizerFamily, _ vocabulary: JSONNode, _ setting: PartSettings) throws
    -> JSON
  {
    if family == .bert {
      return [
        "type": "WordPiece", "vocab": vocabulary.json, "continuing_subword_prefix": "##",
        "unk_token": .string(try setting.name("unk_token")), "max_input_chars_per_word": 100,
      ]
    }
    guard let merges else { throw EspalierError.badInput("vocab.json is there, but merges.txt is missing.") }
    var lines = merges.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
    if lines.last?.isEmpty == true { lines.removeLast() }
    let rules = lines.map { line in
      JSON.string(String(Substring(line.last == UInt8(ascii: "\r") ? line.dropLast() : line)))
    }
    return ["type": "BPE", "vocab": vocabulary.json, "merges": .array(rules)]
  }
}
