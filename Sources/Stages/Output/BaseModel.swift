import EspalierCore
import EspalierIO

/// What is known of the checkpoint that was pruned: its name on the hub, its license, its task.
struct BaseModel {
  /// `organization/name` if the folder tells, else the folder's name.
  let name: String
  /// `license` and what belongs to it, as the front matter of the source's README.md has them; empty if that states none.
  let license: [(key: String, value: String)]
  /// The hub's word for the task, such as `text-generation`; nil if neither README.md nor config.json tells.
  let task: String?

  init(_ checkpoint: Checkpoint) throws {
    name = Self.name(checkpoint)
    let facts = try Self.frontMatter(of: checkpoint.folder + "/README.md")
    license = ["license", "license_name", "license_link"].compactMap { key in
      facts[key].map { (key, $0) }
    }
    task = facts["pipeline_tag"] ?? Self.task(checkpoint.configuration)
  }

  private static func name(_ checkpoint: Checkpoint) -> String {
    let parts = checkpoint.folder.split(separator: "/").map(String.init)
    // The hub's cache: models--ORGANIZATION--NAME/snapshots/COMMIT.
    if parts.count > 2, parts[parts.count - 2] == "snapshots" {
      let words = parts[parts.count - 3].split(separator: "--").map(String.init)
      if words.count == 3, words[0] == "models" { return "\(words[1])/\(words[2])" }
    }
    let own = parts.last { $0 != "." && $0 != ".." } ?? "model"
    // transformers notes where it loaded a model from; a model that was trained further still has the name of its origin.
    let noted = checkpoint.configuration["_name_or_path"]?.string ?? ""
    let words = noted.split(separator: "/", omittingEmptySubsequences: false)
    let isHubName = words.count == 2 && words.allSatisfy { isWord($0) }
    return isHubName && words[1].lowercased() == own.lowercased() ? noted : own
  }

  private static func task(_ configuration: JSON) -> String? {
    let tasks = [
      ("ForCausalLM", "text-generation"), ("LMHeadModel", "text-generation"), ("ForMaskedLM", "fill-mask"),
      ("ForImageClassification", "image-classification"),
      ("ForSequenceClassification", "text-classification"),
    ]
    guard let name = configuration["architectures"]?.array?.first?.string else { return nil }
    return tasks.first { name.hasSuffix($0.0) }?.1
  }

  /// The top-level words of a file's YAML front matter, without values that are anything but one word.
  private static func frontMatter(of path: String) throws -> [String: String] {
    guard try Folder.entry(path)?.isFile == true,
      let text = try? Folder.readText(path, limit: ModelNotes.mostBytes)
    else { return [:] }
    let lines = text.split(whereSeparator: \.isNewline)
    guard lines.first?.allSatisfy({ $0 == "-" }) == true, lines[0].count == 3 else { return [:] }
    var facts: [String: String] = [:]
    for line in lines.dropFirst().prefix(while: { $0 != "---" }) {
      let parts = line.split(separator: ":", maxSplits: 1)
      guard parts.count == 2, !line.hasPrefix(" ") else { continue }
      let value = parts[1].drop { $0 == " " }
      if isWord(value) { facts[String(parts[0])] = String(value) }
    }
    return facts
  }

  /// Whether a text can stand in YAML as it is.
  private static func isWord(_ text: Substring) -> Bool {
    func isLetter(_ byte: UInt8) -> Bool {
      (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
        || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    }
    guard let first = text.utf8.first, isLetter(first) else { return false }
    return text.utf8.allSatisfy { isLetter($0) || "-_./:".utf8.contains($0) }
      && text.utf8.last != UInt8(ascii: ":")
  }
}
