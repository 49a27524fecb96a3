import EspalierCore
import EspalierIO
import EspalierStageKit
import EspalierTokenizers

/// Draws calibration windows from texts.
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

  /// Nil if the recipe does not give it, which is an error.
  private let corpus: FileMix?
  private let samples: Int
  private let length: Int
  private let draw: Draw
  private let seed: Int
  private let specialTokens: Bool

  init(_ parameters: inout Parameters) {
    corpus = parameters.mix(
      "corpus", endings: Corpus.endings, kind: Corpus.kind,
      "Calibration text: plain text or JSON lines with \"text\" (.jsonl, .json), also packed (.gz, .zst), or tokens (.safetensors with input_ids). A folder or a pattern (data/*.txt) stands for its files, read as one. Of a list each member gives as many windows as others, or by weight: [{file: a.txt, weight: 3}, b.txt]."
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

  public func report(for model: ModelOutline) -> CorpusReport {
    CorpusReport(
      samples: samples, length: model.images?.tokens ?? length,
      draw: isDrawn ? draw.rawValue : nil, seed: isDrawn && draw == .random ? seed : nil, from: corpus)
  }

  /// Whether windows are drawn from texts; tokens and images are taken from the start.
  private var isDrawn: Bool { corpora.contains(where: \.holdsText) }
  private var corpora: [FileMix.Part] { corpus?.parts ?? [] }

  public func sourceFiles(of checkpoint: Checkpoint) throws -> [String: String] {
    isDrawn ? try Tokenizer.files(in: checkpoint.folder) : [:]
  }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws {
    if let images = model.images {
      guard let file = corpus?.onlyFile, Corpus.holdsTokens(file) else {
        throw EspalierError.usage(
          "this model reads images; give a .safetensors file with pixel_values, F32, images x \(images.channels) x \(images.side) x \(images.side), as the corpus."
        )
      }
      try requireImages(PixelFile.count(file, images), file)
      return
    }
    guard length <= model.maximumLength else {
      throw EspalierError.usage(
        "length is \(length), but the model was made for at most \(model.maximumLength) tokens; set tokenize.length=\(model.maximumLength) or less."
      )
    }
    let tokenizer = isDrawn ? try Tokenizer(folder: checkpoint.folder) : nil
    for (part, share) in zip(corpora, corpus?.shares(of: samples) ?? []) where share > 0 {
      guard let tokenizer, !part.holdsTokens else {
        try requireWindows(part.files.map(TokenFile.shape), part, share)
        continue
      }
      guard !part.files.contains(where: Corpus.holdsTokens) else {
        throw EspalierError.usage(
          "these are texts and tokens (.safetensors); give them as members of a list.", subject: part.path)
      }
      guard var texts = try CorpusPart(checking: part, checkpoint, tokenizer, specialTokens: specialTokens)
      else { continue }
      // If one window can be drawn at random, all can.
      let windows = try drawWindows(draw == .random ? 1 : share, &texts) { _, _ in }
      try requireKnown(windows, part, vocabulary: model.vocabularySize)
    }
  }

  private func requireImages(_ count: Int, _ path: String) throws {
    guard count >= samples else {
      throw EspalierError.badInput(
        "the file has \(count) images, but \(samples) are wanted; set tokenize.samples.", subject: path)
    }
  }

  private func requireWindows(_ shapes: [(rows: Int, length: Int)], _ part: FileMix.Part, _ share: Int) throws
  {
    let rows = shapes.reduce(0) { $0 + $1.rows }
    let shortest = shapes.map(\.length).min() ?? 0
    guard rows >= share, shortest >= length else {
      throw EspalierError.badInput(
        "the file has \(rows) rows of \(shortest) tokens, but \(share) of \(length) are wanted; set tokenize.samples and tokenize.length.",
        subject: part.path)
    }
  }

  private func requireKnown(_ windows: [[Int32]], _ part: FileMix.Part, vocabulary: Int) throws {
    for id in windows.joined() where id < 0 || Int(id) >= vocabulary {
      throw EspalierError.badInput(
        "the token id \(id) is outside of the model's vocabulary of \(vocabulary); text, tokenizer and model do not belong together.",
        subject: part.path)
    }
  }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    let tokenizer = isDrawn ? Corpus.tokenizerBytes(vocabulary: sizes.model.vocabularySize) : 0
    // One part is read after the other.
    return WorkingSet(rows: (corpora.map(\.needs.memory).max() ?? 0) + tokenizer + samples * length * 4)
  }

  public func work(_ sizes: UnitSizes) -> Work {
    var work = Work()
    for (part, share) in zip(corpora, corpus?.shares(of: samples) ?? []) where share > 0 {
      let needs = part.needs
      // Only some of many texts are drawn; how many of them are too short for a window is not known.
      let encoded = min(needs.textBytes, needs.wholeBytes + 32 * share * length)
      work.memoryBytes += part.holdsText ? 3000 * Double(encoded) : 0
      work.readBytes += needs.fileBytes
      work.scratchBytes = max(work.scratchBytes, needs.scratch)
    }
    return work
  }

  public func run(_ unit: UnitContext) throws {
    if let images = unit.model.images { return try copyImages(images, unit) }
    let shares = corpus?.shares(of: samples) ?? []
    var windows = try zip(corpora, shares).map { part, share in
      share > 0 ? try self.windows(part, share, unit)[...] : []
    }
    var writer = try SafetensorsWriter(
      path: unit.folder + "/" + Self.object, tensors: [("input_ids", .i32, [samples, length])])
    for part in FileMix.order(shares) { try writer.append(windows[part].removeFirst()) }
    try writer.finish()
  }

  /// The windows of one part, as if there were no other.
  private func windows(_ part: FileMix.Part, _ share: Int, _ unit: UnitContext) throws -> [[Int32]] {
    let windows: [[Int32]]
    if part.holdsTokens {
      windows = try readWindows(part, share)
    } else {
      var texts = try CorpusPart(part, unit, specialTokens: specialTokens)
      windows = try drawWindows(share, &texts, unit.progress)
    }
    try requireKnown(windows, part, vocabulary: unit.model.vocabularySize)
    return windows
  }

  /// Takes the first images of the corpus.
  private func copyImages(_ images: ModelOutline.Images, _ unit: UnitContext) throws {
    let corpus = corpus?.onlyFile ?? ""
    let all = try PixelFile.read(corpus, images)
    try requireImages(all.rows, corpus)
    var writer = try SafetensorsWriter(
      path: unit.folder + "/" + Self.object,
      tensors: [(PixelFile.name, .f32, [samples, images.channels, images.side, images.side])])
    for image in 0..<samples { try writer.append((0..<images.count).map { all[image, $0] }) }
    try writer.finish()
  }

  private func drawWindows(
    _ count: Int, _ corpus: inout CorpusPart, _ progress: (_ done: Int, _ of: Int) throws -> Void
  ) throws -> [[Int32]] {
    switch draw {
    case .consecutive: try firstWindows(count, &corpus, progress)
    case .random: try randomWindows(count, &corpus, progress)
    }
  }

  private func firstWindows(
    _ count: Int, _ corpus: inout CorpusPart, _ progress: (_ done: Int, _ of: Int) throws -> Void
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
      subject: corpus.path)
  }

  /// Draws as the published scripts do: a text, skipped unless it is longer than a window, then a window of it.
  private func randomWindows(
    _ count: Int, _ corpus: inout CorpusPart, _ progress: (_ done: Int, _ of: Int) throws -> Void
  ) throws -> [[Int32]] {
    var random = PythonRandom(seed: UInt32(seed))
    var windows: [[Int32]] = []
    var tooShort: Set<Int> = []
    var longest = 0
    while windows.count < count {
      guard tooShort.count < corpus.count else {
        throw EspalierError.badInput(
          "no text has more than \(length) tokens (the longest has \(longest)), so that no window can be drawn; give more text or a smaller tokenize.length.",
          subject: corpus.path)
      }
      let index = corpus.count == 1 ? 0 : random.integer(below: corpus.count)
      guard !tooShort.contains(index) else { continue }
      try progress(windows.count, count)
      let text = try corpus.tokens(index)
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

  private func readWindows(_ part: FileMix.Part, _ share: Int) throws -> [[Int32]] {
    try requireWindows(part.files.map(TokenFile.shape), part, share)
    return try part.files.flatMap { try TokenFile.read($0) }.prefix(share).map { Array($0.prefix(length)) }
  }
}
