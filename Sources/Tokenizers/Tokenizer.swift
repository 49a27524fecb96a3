import EspalierCore

/// Converts text to token ids and back, as described by a `tokenizer.json` of Hugging Face's library `tokenizers`.
///
/// Gives the same tokens as version 0.23.3 of that library, for the models BPE, Unigram, WordPiece and WordLevel with their
/// normalizers, pre-tokenizers, added tokens, post-processors and decoders. Anything else is an error. `truncation` and `padding` are
/// ignored: texts are never cut or padded.
public struct Tokenizer: Sendable {
  private let model: Model
  private let normalizers: [Normalizer]
  private let preTokenizers: [PreTokenizer]
  private let addedTokens: AddedTokens
  private let postProcessors: [PostProcessor]
  private let decoders: [Decoder]?

  /// Reads a whole `tokenizer.json`.
  ///
  /// - Throws: bad input that begins with the place in the file: `model.merges[17]: ...`.
  public init(json: JSON) throws {
    let root = JSONNode(json: json, path: "")
    guard json.object != nil else { throw EspalierError.badInput("The tokenizer is not a JSON object.") }
    if let version = root.optional("version"), try version.string() != "1.0" {
      throw version.failure("only version \"1.0\" is supported.")
    }
    model = try Model(try root.required("model"))
    normalizers = try Self.steps(root.optional("normalizer"), Normalizer.read)
    let preTokenizer = root.optional("pre_tokenizer")
    preTokenizers = try Self.steps(preTokenizer, PreTokenizer.read)
    if let preTokenizer, preTokenizers.count(where: \.isByteLevel) > Limits.byteLevelSteps {
      throw preTokenizer.failure(
        "at most \(Limits.byteLevelSteps) steps of type \"ByteLevel\" are supported.")
    }
    postProcessors = try Self.steps(root.optional("post_processor"), PostProcessor.read)
    let decoder = root.optional("decoder")
    decoders = decoder == nil ? nil : try Self.steps(decoder, Decoder.read)
    addedTokens = try AddedTokens(root.optional("added_tokens"), model: model, normalizers: normalizers)
  }

  /// The tokens of a text.
  ///
  /// - Parameter addSpecialTokens: whether to add the post-processor's tokens, such as one at the start. Special tokens in the text
  ///   itself are found either way.
  /// - Throws: bad input if the text is not valid UTF-8, or the tokenizer cannot encode it.
  /// - Complexity: O(n log n); takes about ten times the text's memory, more without a pre-tokenizer.
  public func encode(_ text: Span<UInt8>, addSpecialTokens: Bool) throws -> [Int32] {
    do {
      _ = try UTF8Span(validating: text)
    } catch {
      throw EspalierError.badInput(
        "the text is not valid UTF-8 at byte \(error.byteOffsets.lowerBound); convert it: iconv -f ENCODING -t UTF-8 FILE > FILE.utf8"
      )
    }
    var run = Run(pool: BufferPool())
    try addedTokens.split(text, .verbatim) { part in
      switch part {
      case .token(let id): run.ids.append(id)
      case .text(let range): try encode(text.extracting(range), isStart: range.lowerBound == 0, &run)
      }
    }
    var encodings = [run.ids]
    for step in postProcessors {
      encodings = try step.apply(to: encodings, addSpecialTokens: addSpecialTokens)
    }
    return encodings.count == 1 ? encodings[0] : Array(encodings.joined())
  }

  /// The tokens of a text; see ``encode(_:addSpecialTokens:)-(Span<UInt8>,_)``.
  public func encode(_ text: [UInt8], addSpecialTokens: Bool) throws -> [Int32] {
    try encode(text.span, addSpecialTokens: addSpecialTokens)
  }

  /// The tokens of a text; see ``encode(_:addSpecialTokens:)-(Span<UInt8>,_)``.
  public func encode(_ text: String, addSpecialTokens: Bool) throws -> [Int32] {
    try encode(text.utf8.span, addSpecialTokens: addSpecialTokens)
  }

  /// The text of tokens. Ids without a token are skipped.
  public func decode(_ ids: [Int32], skipSpecialTokens: Bool) throws -> String {
    var tokens: [[UInt8]] = []
    for id in ids {
      guard let token = bytes(of: id), !skipSpecialTokens || !addedTokens.isSpecial(token) else { continue }
      tokens.append(token)
    }
    guard let decoders else {
      return String(decoding: Array(tokens.joined(separator: [0x20])), as: UTF8.self)
    }
    let start = tokens.reduce(0) { $0 + $1.count }
    for step in decoders {
      tokens = try step.apply(to: tokens)
      try Limits.checkGrowth(from: start, to: tokens.reduce(0) { $0 + $1.count })
    }
    return String(decoding: Array(tokens.joined()), as: UTF8.self)
  }

  /// The largest id plus one, the number of rows that an embedding needs.
  public var vocabularySize: Int {
    Int(max(model.vocabulary.largestID ?? -1, addedTokens.largestID ?? -1)) + 1
  }

  /// The token with this id, as written in the vocabulary.
  public func token(_ id: Int32) -> String? {
    bytes(of: id).map { String(decoding: $0, as: UTF8.self) }
  }

  /// The id of a token, as written in the vocabulary.
  public func id(of token: String) -> Int32? {
    addedTokens.id(of: Array(token.utf8)) ?? model.vocabulary.id(of: token.utf8.span)
  }

  private func bytes(of id: Int32) -> [UInt8]? {
    addedTokens.token(id) ?? model.vocabulary.token(id).map(Array.init)
  }

  /// The state of one call of `encode`.
  private struct Run {
    let pool: BufferPool
    var ids: [Int32] = []
    var scratch = Model.Scratch()
  }

  /// Encodes a part of the text between added tokens.
  private func encode(_ text: Span<UInt8>, isStart: Bool, _ run: inout Run) throws {
    let head = isStart ? text.scalar(at: 0).width : 0
    guard !normalizers.isEmpty else { return try encodeNormalized(text, head: head, &run) }
    var normalized = NormalizedText(bytes: [], head: head)
    normalized.bytes.append(text)
    try Normalizer.apply(normalizers, to: &normalized)
    try encodeNormalized(normalized.bytes.span, head: normalized.head, &run)
  }

  private func encodeNormalized(_ text: Span<UInt8>, head: Int, _ run: inout Run) throws {
    try addedTokens.split(text, .normalized) { part in
      switch part {
      case .token(let id): run.ids.append(id)
      case .text(let range):
        let piece = text.extracting(range)
        let head = min(max(0, head - range.lowerBound), range.count)
        try PreTokenizer.split(piece, head: head, by: preTokenizers[...], run.pool) { word in
          try model.encode(word, &run.scratch, into: &run.ids)
        }
      }
    }
  }

  private static func steps<Step>(
    _ node: JSONNode?, _ read: (JSONNode, inout [Step]) throws -> Void
  ) throws -> [Step] {
    guard let node else { return [] }
    var steps: [Step] = []
    try read(node, &steps)
    guard steps.count <= Limits.steps else {
      throw node.failure("there are \(steps.count) steps; at most \(Limits.steps) are supported.")
    }
    return steps
  }
}
