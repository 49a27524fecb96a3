import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierTokenizers

/// Writes text with a checkpoint, token by token.
public struct Generator: Sendable {
  private let model: Model
  private let tokenizer: Tokenizer
  private let endings: Set<Int32>
  private let begin: Int32?
  private let device: Device
  private let precision: Precision

  /// - Parameter precision: that of the products.
  /// - Throws: bad input if the folder has no tokenizer, or its configuration is damaged.
  public init(_ model: Model, precision: Precision = .f32, on device: Device) throws {
    self.model = model
    self.device = device
    self.precision = precision
    tokenizer = try Tokenizer(folder: model.checkpoint.folder)
    let special = try SpecialIDs(model.checkpoint)
    (endings, begin) = (special.endings, special.begin)
  }

  /// What came out, and how fast.
  public struct Answer: Sendable {
    public enum Ending: String, Sendable {
      /// The model wrote its end-of-text token.
      case endOfText
      case stopString
      /// The number of tokens that was asked for.
      case tokenLimit
      /// The longest text that the model is made for.
      case contextLimit
    }

    public var text = ""
    public var ids: [Int32] = []
    public var promptTokens = 0
    public var ending = Ending.tokenLimit
    public var promptSeconds = 0.0
    /// For all tokens but the first, which the prompt gives.
    public var answerSeconds = 0.0
  }

  /// The tokens of a prompt.
  ///
  /// - Parameter isChat: whether the text comes from a chat template, which writes the special tokens itself.
  /// - Throws: a usage error if there are none, and the model has no token to begin with.
  public func tokens(of prompt: String, isChat: Bool = false) throws -> [Int32] {
    let ids = try tokenizer.encode(prompt, addSpecialTokens: !isChat)
    if !ids.isEmpty { return ids }
    guard let begin else {
      throw EspalierError.usage(
        "the prompt is empty, and this model has no token that a text begins with; give some text.")
    }
    return [begin]
  }

  /// Goes on from a prompt.
  ///
  /// - Parameters:
  ///   - limit: tokens to write at most; at least 1.
  ///   - stops: the answer ends before the first of these strings.
  ///   - progress: called after each block with its number while the prompt is read.
  ///   - write: called with each piece of text, whole characters only.
  /// - Throws: a usage error if the prompt is longer than the texts that the model is made for; bad input if the model is damaged.
  public func answer(
    _ prompt: [Int32], limit: Int, _ sampling: Sampling = Sampling(), stops: [String] = [],
    progress: (Int) throws -> Void = { _ in }, write: (String) throws -> Void = { _ in }
  ) throws -> Answer {
    precondition(limit > 0 && !prompt.isEmpty)
    try sampling.check()
    let longest = model.blueprint.maximumLength
    guard prompt.count <= longest else {
      throw EspalierError.usage(
        "the prompt has \(prompt.count) tokens, but the model is made for texts of at most \(longest); give a shorter one."
      )
    }
    // The last token of a text need not be read.
    let most = min(limit, longest - prompt.count + 1)
    var answer = Answer(promptTokens: prompt.count, ending: most < limit ? .contextLimit : .tokenLimit)
    let decoding = try Decoding(
      model, capacity: prompt.count + most - 1, precision: precision, on: device)
    var sampler = Sampler(sampling, prompt: prompt)
    var stream = TextStream(tokenizer, prompt: prompt, stops: stops)
    func put(_ text: String) throws {
      guard !text.isEmpty else { return }
      answer.text += text
      try write(text)
    }
    let clock = ContinuousClock()
    var start = clock.now
    var logits = try decoding.append(prompt, progress: progress).array()
    answer.promptSeconds = (clock.now - start) / .seconds(1)
    start = clock.now
    while true {
      let id = sampler.next(logits)
      if endings.contains(id) {
        answer.ending = .endOfText
        break
      }
      answer.ids.append(id)
      try put(stream.append(id))
      if stream.hasStopped {
        answer.ending = .stopString
        break
      }
      if answer.ids.count == most { break }
      logits = try decoding.append([id]).array()
    }
    answer.answerSeconds = (clock.now - start) / .seconds(1)
    try put(stream.finish())
    if stream.hasStopped { answer.ending = .stopString }
    return answer
  }
}

/// The ids of tokens that begin and end texts, from `generation_config.json`, else from `config.json`.
struct SpecialIDs {
  let begin: Int32?
  let endings: Set<Int32>

  init(_ checkpoint: Checkpoint) throws {
    let path = checkpoint.folder + "/generation_config.json"
    let generation = try Folder.entry(path) == nil ? nil : Folder.readJSON(path, limit: 1 << 20)
    let configurations = [
      (generation, path), (checkpoint.configuration, checkpoint.folder + "/config.json"),
      (checkpoint.configuration["text_config"], checkpoint.folder + "/config.json"),
    ]
    func ids(_ key: String) throws -> [Int32] {
      for case (let configuration?, let path) in configurations {
        guard let value = configuration[key] else { continue }
        return try (value.array ?? [value]).map {
          guard let id = $0.integer, let id = Int32(exactly: id), id >= 0 else {
            throw EspalierError.badInput(
              "\(key) must be a token id or a list of them, not \(value.text.prefix(40)).", subject: path)
          }
          return id
        }
      }
      return []
    }
    begin = try ids("bos_token_id").first
    endings = Set(try ids("eos_token_id"))
  }
}
