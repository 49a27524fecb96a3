import EspalierCore
import EspalierIO
import EspalierStageKit
import EspalierTokenizers

/// Draws calibration windows from a text.
public struct Tokenize: CorpusStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "tokenize",
    summary:
      "Turns a calibration text into windows of token ids, with the checkpoint's own tokenizer.json.",
    revision: 2
  ) { .corpus(Tokenize(&$0)) }

  /// The object that it writes.
  static let object = "tokens.safetensors"

  /// How windows are chosen.
  enum Draw: String, CaseIterable {
    /// At random, as the published C4 and WikiText scripts draw them (CPython's Mersenne Twister).
    case random
    /// The first ones, in order.
    case consecutive
  }

  private let corpus: String
  private let samples: Int
  private let length: Int
  private let draw: Draw
  private let seed: Int
  private let specialTokens: Bool

  init(_ parameters: inout Parameters) {
    corpus = parameters.file(
      "corpus", kind: Corpus.kind,
      "Calibration text: plain text or JSON lines with \"text\" (.jsonl, .json), also packed (.gz, .zst), or tokens (.safetensors with input_ids)."
    )
    samples = parameters.integer("samples", default: 128, in: 1...10_000_000, "Number of windows.")
    length = parameters.integer("length", default: 2048, in: 2...1_048_576, "Tokens per window.")
    draw = parameters.choice(
      "draw", default: .random, "Whether windows are drawn at random, or taken in order from the start.")
    seed = parameters.integer("seed", default: 0, in: 0...Int(UInt32.max), "Seed of the random draw.")
    specialTokens = parameters.flag(
      "specialTokens", default: true,
      "Whether the tokenizer adds its own special tokens (a start token) to each text.")
  }

  public func shape(for model: ModelOutline) -> (samples: Int, length: Int) {
    (samples, model.images?.tokens ?? length)
  }

  public func sourceFiles(of checkpoint: Checkpoint) throws -> [String: String] {
    Corpus.holdsTokens(corpus) ? [:] : try Tokenizer.files(in: checkpoint.folder)
  }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws {
    if let images = model.images {
      guard Corpus.holdsTokens(corpus) else {
        throw EspalierError.usage(
          "this model reads images; give a .safetensors file with pixel_values, F32, images x \(images.channels) x \(images.side) x \(images.side), as the corpus."
        )
      }
      try requireImages(PixelFile.count(corpus, images))
      return
    }
    guard length <= model.maximumLength else {
      throw EspalierError.usage(
        "length is \(length), but the model was made for at most \(model.maximumLength) tokens; set tokenize.length=\(model.maximumLength) or less."
      )
    }
    guard !Corpus.holdsTokens(corpus) else { return try requireWindows(TokenFile.shape(corpus)) }
    if let corpus = try Corpus.checked(corpus, checkpoint: checkpoint, specialTokens: specialTokens) {
      // If one window can be drawn at random, all can.
      let count = draw == .random ? 1 : samples
      try requireKnown(drawWindows(count, corpus) { _, _ in }, vocabulary: model.vocabularySize)
    }
  }

  private func requireImages(_ count: Int) throws {
    guard count >= samples else {
      throw EspalierError.badInput(
        "the file has \(count) images, but \(samples) are wanted; set tokenize.samples.", subject: corpus)
    }
  }

  private func requireWindows(_ shape: (rows: Int, length: Int)) throws {
    guard shape.rows >= samples, shape.length >= length else {
      throw EspalierError.badInput(
        "the file has \(shape.rows) rows of \(shape.length) tokens, but \(samples) of \(length) are wanted; set tokenize.samples and tokenize.length.",
        subject: corpus)
    }
  }

  private func requireKnown(_ windows: [[Int32]], vocabulary: Int) throws {
    for id in windows.joined() where id < 0 || Int(id) >= vocabulary {
      throw EspalierError.badInput(
        "the token id \(id) is outside of the model's vocabulary of \(vocabulary); text, tokenizer and model do not belong together.",
        subject: corpus)
    }
  }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    let needs = Corpus.Needs(corpus)
    let tokenizer =
      Corpus.holdsTokens(corpus) ? 0 : Corpus.tokenizerBytes(vocabulary: sizes.model.vocabularySize)
    return WorkingSet(rows: needs.memory + tokenizer + samples * length * 4)
  }

  public func work(_ sizes: UnitSizes) -> Work {
    let needs = Corpus.Needs(corpus)
    // Only some of many texts are drawn; how many of them are too short for a window is not known.
    let encoded = needs.isWhole ? needs.textBytes : min(needs.textBytes, 32 * samples * length)
    var work = Work(
      memoryBytes: Corpus.holdsTokens(corpus) ? 0 : 3000 * Double(encoded), readBytes: needs.fileBytes)
    work.scratchBytes = needs.scratch
    return work
  }

  public func run(_ unit: UnitContext) throws -> CorpusReport {
    if let images = unit.model.images { return try copyImages(images, unit) }
    let windows =
      Corpus.holdsTokens(corpus)
      ? try readWindows()
      : try drawWindows(
        samples,
        Corpus(
          path: corpus, checkpoint: unit.checkpoint, specialTokens: specialTokens, scratch: unit.folder,
          progress: unit.progress), unit.progress)
    try requireKnown(windows, vocabulary: unit.model.vocabularySize)
    var writer = try SafetensorsWriter(
      path: unit.folder + "/" + Self.object, tensors: [("input_ids", .i32, [samples, length])])
    for window in windows { try writer.append(window) }
    try writer.finish()
    return CorpusReport(samples: samples, length: length)
  }

  /// Takes the first images of the corpus.
  private func copyImages(_ images: ModelOutline.Images, _ unit: UnitContext) throws -> CorpusReport {
    let all = try PixelFile.read(corpus, images)
    try requireImages(all.rows)
    var writer = try SafetensorsWriter(
      path: unit.folder + "/" + Self.object,
      tensors: [(PixelFile.name, .f32, [samples, images.channels, images.side, images.side])])
    for image in 0..<samples { try writer.append((0..<images.count).map { all[image, $0] }) }
    try writer.finish()
    return CorpusReport(samples: samples, length: images.tokens)
  }

  private func drawWindows(
    _ count: Int, _ corpus: borrowing Corpus, _ progress: (_ done: Int, _ of: Int) throws -> Void
  ) throws -> [[Int32]] {
    switch draw {
    case .consecutive: try firstWindows(count, corpus, progress)
    case .random: try randomWindows(count, corpus, progress)
    }
  }

  private func firstWindows(
    _ count: Int, _ corpus: borrowing Corpus, _ progress: (_ done: Int, _ of: Int) throws -> Void
  ) throws -> [[Int32]] {
    var windows: [[Int32]] = []
    var longest = 0
    for index in 0..<corpus.count {
      try progress(windows.count, count)
      let text = try corpus.tokens(index)
      longest = max(longest, text.count)
      for window in parts(of: text.count, size: length) where window.count == length {
        windows.append(Array(text[window]))
        if windows.count == count { return windows }
      }
    }
    throw EspalierError.badInput(
      "the text has \(longest < length ? "only \(longest) tokens, less than one window" : "\(windows.count) windows") of \(length) tokens, but \(count) are wanted; give more text, or set tokenize.samples and tokenize.length.",
      subject: self.corpus)
  }

  /// Draws as the published scripts do: a text, skipped unless it is longer than a window, then a window of it.
  private func randomWindows(
    _ count: Int, _ corpus: borrowing Corpus, _ progress: (_ done: Int, _ of: Int) throws -> Void
  ) throws -> [[Int32]] {
    var random = PythonRandom(seed: UInt32(seed))
    var windows: [[Int32]] = []
    var tooShort: Set<Int> = []
    var longest = 0
    var last: (index: Int, tokens: [Int32])?
    while windows.count < count {
      guard tooShort.count < corpus.count else {
        throw EspalierError.badInput(
          "no text has more than \(length) tokens (the longest has \(longest)), so that no window can be drawn; give more text or a smaller tokenize.length.",
          subject: self.corpus)
      }
      let index = corpus.count == 1 ? 0 : random.integer(below: corpus.count)
      guard !tooShort.contains(index) else { continue }
      try progress(windows.count, count)
      let text = if let last, last.index == index { last.tokens } else { try corpus.tokens(index) }
      last = (index, text)
      longest = max(longest, text.count)
      if text.count > length {
        let start = random.integer(below: text.count - length)
        windows.append(Array(text[start..<start + length]))
      } else {
        tooShort.insert(index)
      }
    }
    return windows
  }

  private func readWindows() throws -> [[Int32]] {
    try requireWindows(TokenFile.shape(corpus))
    return try TokenFile.read(corpus).prefix(samples).map { Array($0.prefix(length)) }
  }
}
