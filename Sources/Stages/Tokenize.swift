import EspalierCore
import EspalierIO
import EspalierPipeline
import EspalierTokenizers

/// Draws calibration windows from a text.
public struct Tokenize: CorpusStage {
  public static let name = "tokenize"
  public static let summary =
    "Turns a calibration text into windows of token ids, with the checkpoint's own tokenizer.json."
  public static let revision = 1
  /// The object that it writes.
  static let object = "tokens.safetensors"

  /// How windows are chosen.
  enum Draw: String, CaseIterable {
    /// At random, as the published C4 and WikiText scripts draw them (CPython's Mersenne Twister).
    case random
    /// The first ones, one after the other.
    case consecutive
  }

  private let corpus: String
  private let samples: Int
  private let length: Int
  private let draw: Draw
  private let seed: Int
  private let specialTokens: Bool

  public init(_ parameters: inout Parameters) {
    corpus = parameters.file(
      "corpus",
      "Calibration text: plain text, JSON lines with a \"text\" each (.jsonl), or tokens (.safetensors with input_ids)."
    )
    samples = parameters.integer("samples", default: 128, in: 1...10_000_000, "Windows to draw.")
    length = parameters.integer("length", default: 2048, in: 2...1_048_576, "Tokens of a window.")
    draw = parameters.choice(
      "draw", default: .random, "Windows at random, or the text's first ones in order.")
    seed = parameters.integer("seed", default: 0, in: 0...Int(UInt32.max), "Seed of the random draw.")
    specialTokens = parameters.flag(
      "specialTokens", default: true,
      "Whether the tokenizer adds its own special tokens (a start token) to each text.")
  }

  public var shape: (samples: Int, length: Int) { (samples, length) }

  public func sourceFiles(of checkpoint: Checkpoint) -> [String: String] {
    Corpus.holdsTokens(corpus) ? [:] : ["tokenizer": checkpoint.folder + "/tokenizer.json"]
  }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws {
    guard length <= model.maximumLength else {
      throw EspalierError.usage(
        "length is \(length), but the model was made for at most \(model.maximumLength) tokens; set tokenize.length=\(model.maximumLength) or less."
      )
    }
    guard try Corpus.holdsTokens(corpus) || Folder.entry(checkpoint.folder + "/tokenizer.json") != nil
    else {
      throw EspalierError.badInput(
        "tokenizer.json is missing; give tokens (.safetensors with input_ids) as the corpus instead.",
        subject: checkpoint.folder)
    }
  }

  /// The text is held whole, with its tokens and what they are made from; measured.
  public func workingSet(_ sizes: UnitSizes) -> WorkingSet { WorkingSet(rows: 5 * corpusBytes) }

  public func work(_ sizes: UnitSizes) -> Work {
    Work(
      memoryBytes: Corpus.holdsTokens(corpus) ? 0 : 3000 * Double(corpusBytes), readBytes: corpusBytes)
  }

  private var corpusBytes: Int { ((try? Folder.entry(corpus)) ?? nil)?.size ?? 0 }

  public func run(_ unit: UnitContext) throws -> JSON {
    let windows =
      Corpus.holdsTokens(corpus)
      ? try readWindows()
      : try drawWindows(Corpus(path: corpus, checkpoint: unit.checkpoint, specialTokens: specialTokens))
    for id in windows.joined() where id < 0 || Int(id) >= unit.model.vocabularySize {
      throw EspalierError.badInput(
        "the token id \(id) is outside of the model's vocabulary of \(unit.model.vocabularySize); text, tokenizer and model do not belong together.",
        subject: corpus)
    }
    var writer = try SafetensorsWriter(
      path: unit.folder + "/" + Self.object, tensors: [("input_ids", .i32, [samples, length])])
    for window in windows { try writer.append(window) }
    try writer.finish()
    return ["samples": .integer(samples), "length": .integer(length), "tokens": .integer(samples * length)]
  }

  private func drawWindows(_ corpus: Corpus) throws -> [[Int32]] {
    let texts = try corpus.tokens(count: draw == .consecutive ? samples * length : nil)
    let longest = texts.map(\.count).max() ?? 0
    guard longest > 0 else { throw EspalierError.badInput("the text is empty.", subject: self.corpus) }
    switch draw {
    case .consecutive:
      let windows = texts.flatMap { text in
        (0..<text.count / length).map { Array(text[$0 * length..<($0 + 1) * length]) }
      }
      guard windows.count >= samples else {
        throw EspalierError.badInput(
          "the text has \(longest < length ? "only \(longest) tokens, less than one window" : "\(windows.count) windows") of \(length) tokens, but \(samples) are wanted; give more text, or set tokenize.samples and tokenize.length.",
          subject: self.corpus)
      }
      return Array(windows.prefix(samples))
    case .random:
      // As published: a text is taken only if it is longer than a window.
      guard longest > length else {
        throw EspalierError.badInput(
          "no text has more than \(length) tokens (the longest has \(longest)), so that no window can be drawn; give more text or a smaller tokenize.length.",
          subject: self.corpus)
      }
      var random = PythonRandom(seed: UInt32(seed))
      return (0..<samples).map { _ in
        while true {
          let text = texts.count == 1 ? texts[0] : texts[random.integer(below: texts.count)]
          guard text.count > length else { continue }
          let start = random.integer(below: text.count - length)
          return Array(text[start..<start + length])
        }
      }
    }
  }

  private func readWindows() throws -> [[Int32]] {
    let tokens = try TokenFile.read(corpus)
    guard tokens.count >= samples, tokens.allSatisfy({ $0.count >= length }) else {
      throw EspalierError.badInput(
        "the file has \(tokens.count) rows of \(tokens.first?.count ?? 0) tokens, but \(samples) of \(length) are wanted; set tokenize.samples and tokenize.length.",
        subject: corpus)
    }
    return tokens.prefix(samples).map { Array($0.prefix(length)) }
  }
}
