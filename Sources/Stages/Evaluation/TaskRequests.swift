import EspalierCore
import EspalierIO
import EspalierTokenizers

/// Turns the prompts of tasks into tokens, as the harness does for a causal model.
struct TaskRequests {
  private let tokenizer: Tokenizer
  /// Stands before a text that has nothing before it.
  private let prefix: Int32?
  /// The longest input, in tokens; what is longer loses its start.
  private let longest: Int
  private let folder: String

  init(folder: String, longest: Int) throws {
    self.folder = folder
    self.longest = longest
    tokenizer = try Tokenizer(folder: folder)
    prefix = try Self.prefix(folder).flatMap(tokenizer.id)
  }

  /// The start token of the tokenizer's settings, or else the end token.
  private static func prefix(_ folder: String) throws -> String? {
    for role in ["bos_token", "eos_token"] {
      for name in ["tokenizer_config.json", "special_tokens_map.json"]
      where try Folder.entry(folder + "/" + name) != nil {
        let token = try Folder.readJSON(folder + "/" + name, limit: 256 << 20)[role]
        if let content = token?.string ?? token?["content"]?.string { return content }
      }
    }
    return nil
  }

  private func requirePrefix() throws -> Int32 {
    guard let prefix else {
      throw EspalierError.badInput(
        "tokenizer_config.json names neither a start token nor an end token, but one must stand before a text that has nothing before it.",
        subject: folder)
    }
    return prefix
  }

  /// What is scored after a context. White space at the end of the context moves to what is scored, because tokenizers join it to the
  /// next word.
  func request(_ pair: TaskRow.Pair) throws -> ScoredSequence {
    let (context, spaces) = TaskText.splitEnd(pair.context)
    guard !pair.context.isEmpty else {
      let prefix = try requirePrefix()
      let ids = try tokenizer.encode(pair.continuation, addSpecialTokens: false)
      return try ids.first == prefix
        ? sequence(Array(ids.prefix(1)), Array(ids.dropFirst())) : sequence([prefix], ids)
    }
    let whole = try tokenizer.encode(context + spaces + pair.continuation, addSpecialTokens: true)
    let count = try tokenizer.encode(context, addSpecialTokens: true).count
    return try sequence(Array(whole.prefix(count)), Array(whole.dropFirst(count)))
  }

  /// The windows of a document.
  func windows(_ document: String) throws -> [ScoredSequence] {
    let ids = try tokenizer.encode(document, addSpecialTokens: true)
    return try Self.windows(ids, prefix: requirePrefix(), longest: longest).map(sequence)
  }

  /// Windows that follow each other, with what precedes each: one token, and for the last one as many as are free.
  static func windows(_ ids: [Int32], prefix: Int32, longest: Int) -> [(context: [Int32], targets: [Int32])] {
    parts(of: ids.count, size: longest).map { part in
      let start = max(0, part.upperBound - longest - 1)
      return (
        context: part.lowerBound == 0 ? [prefix] : Array(ids[start..<part.lowerBound]),
        targets: Array(ids[part])
      )
    }
  }

  private func sequence(_ context: [Int32], _ targets: [Int32]) throws -> ScoredSequence {
    guard !context.isEmpty, !targets.isEmpty, targets.count <= longest else {
      throw EspalierError.badInput(
        targets.count > longest
          ? "a choice has \(targets.count) tokens, more than the \(longest) that the model was made for."
          : "a choice has no tokens of its own.")
    }
    let inputs = (context + targets.dropLast()).suffix(longest)
    return ScoredSequence(inputs: Array(inputs), first: inputs.count - targets.count, targets: targets)
  }
}
