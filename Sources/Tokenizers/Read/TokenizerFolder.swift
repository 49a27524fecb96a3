import EspalierCore
import EspalierIO

extension Tokenizer {
  /// Reads the tokenizer of a checkpoint folder: its `tokenizer.json`, or the vocabulary files of older models.
  ///
  /// - Throws: bad input that names the file and the place in it, or says how to make a missing file.
  public init(folder: String) throws {
    let files = try Self.files(in: folder)
    if let path = files["tokenizer"] {
      let json = try Folder.readJSON(path, limit: 256 << 20)
      self = try about(path) { try Tokenizer(json: json) }
    } else {
      let parts = try TokenizerParts(folder: folder)
      let names = files.keys.sorted().joined(separator: ", ")
      self = try about("\(folder) (\(names))") { try Tokenizer(json: parts.json()) }
    }
  }

  /// The paths of the files that the tokenizer of a folder is read from, each with a name.
  ///
  /// - Throws: bad input if there are none that can be read.
  public static func files(in folder: String) throws -> [String: String] {
    func isThere(_ name: String) throws -> Bool { try Folder.entry(folder + "/" + name) != nil }
    if try isThere("tokenizer.json") { return ["tokenizer": folder + "/tokenizer.json"] }
    if try isThere("vocab.txt") || isThere("vocab.json") && isThere("merges.txt") {
      var files: [String: String] = [:]
      for name in try TokenizerParts.fileNames.filter({ try isThere($0) }) {
        files[name] = folder + "/" + name
      }
      return files
    }
    let converter = "from transformers import AutoTokenizer as T; T.from_pretrained('.'"
    for (name, options) in [("tekken.json", ", mistral_format=False"), ("tokenizer.model", "")]
    where try isThere(name) {
      throw EspalierError.badInput(
        "there is a \(name), but no tokenizer.json; make one by running, in this folder (after pip install transformers "
          + "sentencepiece protobuf): python3 -c \"\(converter)\(options)).save_pretrained('.')\"",
        subject: folder)
    }
    throw EspalierError.badInput(
      "tokenizer.json is missing; text cannot be turned into tokens without it.", subject: folder)
  }
}
