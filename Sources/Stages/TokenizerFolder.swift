import EspalierCore
import EspalierIO
import EspalierTokenizers

extension Tokenizer {
  /// The tokenizer of a checkpoint folder.
  ///
  /// - Throws: ``EspalierError`` that names `tokenizer.json` and the place in it.
  init(folder: String) throws {
    let path = folder + "/tokenizer.json"
    guard try Folder.entry(path) != nil else {
      throw EspalierError.badInput(
        "tokenizer.json is missing; text cannot be turned into tokens without it.", subject: folder)
    }
    let json = try Folder.readJSON(path, limit: 256 << 20)
    self = try about(path) { try Tokenizer(json: json) }
  }
}
