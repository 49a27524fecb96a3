import EspalierCore
import EspalierIO
import Glibc

/// One message of a chat.
public struct ChatMessage: Sendable, Equatable {
  public enum Role: String, Sendable {
    case system, user, assistant
  }

  public var role: Role
  public var content: String

  public init(_ role: Role, _ content: String) {
    self.role = role
    self.content = content
  }

  /// Reads a JSON list of messages, each with `role` and `content`.
  ///
  /// - Throws: bad input that names the message; an I/O error.
  public static func read(_ path: String) throws -> [ChatMessage] {
    try about(path) { try messages(Folder.readJSON(path, limit: 64 << 20)) }
  }

  static func messages(_ json: JSON) throws -> [ChatMessage] {
    guard let list = json.array, !list.isEmpty else {
      throw EspalierError.badInput(
        "a chat is a list of messages: [{\"role\": \"user\", \"content\": \"...\"}].")
    }
    return try list.enumerated().map { index, item in
      guard let role = item["role"]?.string.flatMap(Role.init(rawValue:)),
        let content = item["content"]?.string
      else {
        throw EspalierError.badInput(
          "message \(index) needs a role (system, user or assistant) and a content, which is text.")
      }
      return ChatMessage(role, content)
    }
  }
}

/// How a model was taught to see a chat: one of a few formats, recognized by the digest of the folder's template.
///
/// Templates are programs in Jinja; only those that are known exactly are used.
public struct ChatTemplate: Sendable {
  enum Format: Sendable, Equatable {
    /// With a system message of its own, if the chat has none.
    case chatML(system: String?)
    /// `datesItself`: with a system message that tells the date, as in Llama 3.2.
    case llama3(datesItself: Bool)
    case mistral
    case gemma(begins: Bool)
    case zephyr
  }

  /// The formats by the SHA-256 of the templates, see ``digest(of:)``.
  static let known: [String: Format] = [
    "153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3": .chatML(system: nil),
    "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788":
      .chatML(system: "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    "793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb":
      .chatML(system: "You are a helpful assistant."),
    "a18cc698dd45623eb707279d08e66f7bb8d76afc89ead84016b88487b395b5cc":
      .chatML(system: "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2": .llama3(datesItself: false),
    "ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122": .llama3(datesItself: false),
    "0cac23ffd2b33ff7b039e17ee143a080053318146fdc788f1d49ed4745aa8683": .llama3(datesItself: true),
    "26a59556925c987317ce5291811ba3b7f32ec4c647c400c6cc7e3a9993007ba7": .mistral,
    "3919b9309d8949ee8f4b710215987700f87dc5bb0e87bf24dd39189ec65e3eec": .gemma(begins: false),
    "ecd6ae513fe103f0eb62e8ab5bfa8d0fe45c1074fa398b089c93a7e70c15cfd6": .gemma(begins: true),
    "66291cf0045c2425a3a667cf3cbb7af2b11f09e025c02f97245323ab79119362": .zephyr,
  ]

  let format: Format
  let begin: String
  let end: String

  init(_ format: Format, begin: String, end: String) {
    self.format = format
    self.begin = begin
    self.end = end
  }

  /// Reads the template of a folder: `chat_template.jinja`, or the member of `tokenizer_config.json`.
  ///
  /// - Throws: a usage error if there is none, or it is not one of the known ones; bad input if the files are damaged.
  public init(_ checkpoint: Checkpoint) throws {
    let folder = checkpoint.folder
    let path = folder + "/tokenizer_config.json"
    let configuration = try Folder.entry(path) == nil ? JSON.null : Folder.readJSON(path, limit: 16 << 20)
    guard let text = try Self.text(folder, configuration) else {
      throw EspalierError.usage(
        "this model has no chat template; write the chat out in its format, and give it by --prompt.",
        subject: folder)
    }
    guard let format = Self.known[Self.digest(of: text)] else {
      throw EspalierError.usage(
        "the model's chat template is not one of those that are known (ChatML, Llama 3, Mistral, Gemma, Zephyr); write the chat out in its format, and give it by --prompt.",
        subject: folder)
    }
    func token(_ key: String) -> String {
      configuration[key]?.string ?? configuration[key]?["content"]?.string ?? ""
    }
    self.init(format, begin: token("bos_token"), end: token("eos_token"))
  }

  private static func text(_ folder: String, _ configuration: JSON) throws -> String? {
    let path = folder + "/chat_template.jinja"
    if try Folder.entry(path) != nil { return try Folder.readText(path, limit: 1 << 20) }
    if let text = configuration["chat_template"]?.string { return text }
    let named = configuration["chat_template"]?.array?.first { $0["name"]?.string == "default" }
    return named?["template"]?.string
  }

  /// The digest of a template whose line breaks in strings may be written as escapes.
  static func digest(of template: String) -> String {
    var text = template.replacing("\\n", with: "\n")
    while text.hasSuffix("\n") { text.removeLast() }
    return SHA256.digest(of: text).hex
  }

  /// The text that the model goes on from with its answer.
  ///
  /// - Throws: a usage error if the format has no place for such a chat.
  public func prompt(_ chat: [ChatMessage]) throws -> String {
    try prompt(chat, date: Self.today())
  }

  func prompt(_ chat: [ChatMessage], date: String) throws -> String {
    switch format {
    case .chatML(let system):
      let preset =
        chat.first?.role == .system ? [] : [system].compactMap(\.self).map { ChatMessage(.system, $0) }
      return (preset + chat).map { "<|im_start|>\($0.role.rawValue)\n\($0.content)<|im_end|>\n" }.joined()
        + "<|im_start|>assistant\n"
    case .llama3(let datesItself):
      func turn(_ role: String, _ content: String) -> String {
        "<|start_header_id|>\(role)<|end_header_id|>\n\n\(content)<|eot_id|>"
      }
      var (text, rest) = (begin, chat[...])
      if datesItself {
        let system = chat.first?.role == .system ? rest.removeFirst().content : ""
        text += turn(
          "system",
          "Cutting Knowledge Date: December 2023\nToday Date: \(date)\n\n\(Self.trimmed(system))")
      }
      return text + rest.map { turn($0.role.rawValue, Self.trimmed($0.content)) }.joined()
        + "<|start_header_id|>assistant<|end_header_id|>\n\n"
    case .mistral:
      try requireTurns(chat)
      return begin
        + chat.map { $0.role == .user ? "[INST] \($0.content) [/INST]" : $0.content + end }.joined()
    case .gemma(let begins):
      try requireTurns(chat)
      let turns = chat.map {
        "<start_of_turn>\($0.role == .user ? "user" : "model")\n\(Self.trimmed($0.content))<end_of_turn>\n"
      }
      return (begins ? begin : "") + turns.joined() + "<start_of_turn>model\n"
    case .zephyr:
      return chat.map { "<|\($0.role.rawValue)|>\n\($0.content)\(end)\n" }.joined() + "<|assistant|>\n"
    }
  }

  /// User and assistant take turns, and the user begins.
  private func requireTurns(_ chat: [ChatMessage]) throws {
    for (index, message) in chat.enumerated()
    where message.role != (index % 2 == 0 ? .user : .assistant) {
      throw EspalierError.usage(
        "message \(index) is from \(message.role.rawValue), but in this model's chats user and assistant take turns, the user first, and there is no system message."
      )
    }
  }

  /// Without white space at both ends.
  private static func trimmed(_ text: String) -> String {
    var text = text[...]
    while text.first?.isWhitespace == true { text.removeFirst() }
    while text.last?.isWhitespace == true { text.removeLast() }
    return String(text)
  }

  /// As in "05 Mar 2026".
  private static func today() -> String {
    var (now, parts) = (time(nil), tm())
    localtime_r(&now, &parts)
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    let day = parts.tm_mday < 10 ? "0\(parts.tm_mday)" : "\(parts.tm_mday)"
    return "\(day) \(months[Int(parts.tm_mon) % 12]) \(Int(parts.tm_year) + 1900)"
  }
}
