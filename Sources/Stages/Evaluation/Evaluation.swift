import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierStageKit

/// Measures of a model, of which all are taken in one pass over its blocks: window perplexities of texts, tasks, and, beside another
/// model, how far it is from that one.
public struct Evaluation: Sendable {
  public let texts: [String]
  /// Tokens of a window; nil for 2048, or the model's maximum if that is less.
  public let length: Int?
  /// Windows of each text, from the start; nil for all.
  public let windows: Int?
  let tasks: [Task]
  let precision: ProductPrecision

  /// Reads the rows of the tasks.
  ///
  /// - Throws: a usage error if a task is not known; bad input that names file, line and columns.
  public init(
    texts: [String], length: Int? = nil, windows: Int? = nil, tasks: [TaskFile] = [],
    options: TaskOptions = TaskOptions(), precision: ProductPrecision = .auto
  ) throws {
    self.texts = texts
    self.length = length
    self.windows = windows
    self.tasks = try tasks.map { try Task($0, options) }
    self.precision = precision
  }

  /// Tokens of a window: 2048 as in the papers, or the model's maximum if that is less.
  static func length(_ length: Int?, _ model: ModelOutline) -> Int {
    length ?? min(2048, model.maximumLength)
  }

  /// Finds mistakes before any work.
  ///
  /// - Throws: a usage error; bad input that names the file.
  public func check(_ model: Model, against reference: Model? = nil) throws {
    for one in [model, reference].compactMap(\.self) {
      try precision.check(one.checkpoint, "precision")
    }
    let outline = model.outline
    if let reference {
      guard
        outline.vocabularySize == reference.outline.vocabularySize,
        outline.blocks.count == reference.outline.blocks.count,
        model.blueprint.isCausal == reference.blueprint.isCausal,
        outline.images?.tokens == reference.outline.images?.tokens
      else {
        throw EspalierError.usage(
          "these are models of different kinds: a model is compared with the one that it was pruned from.",
          subject: reference.checkpoint.folder)
      }
      if outline.images == nil { try Self.requireSameTokenizer(model, reference) }
    }
    let predicts = model.blueprint.isCausal && model.blueprint.ending.head != nil
    guard predicts || (reference != nil && tasks.isEmpty) else {
      throw EspalierError.usage(
        "\(outline.modelType) does not predict the next token, so it has neither perplexity nor answers; its outputs can be compared with those of another model.",
        subject: model.checkpoint.folder)
    }
    if let images = outline.images {
      for path in texts { _ = try PixelFile.count(path, images) }
      return
    }
    if let length, length > outline.maximumLength {
      throw EspalierError.usage(
        "length is \(length), but the model was made for at most \(outline.maximumLength) tokens; give \(outline.maximumLength) or less."
      )
    }
    for path in texts {
      if Corpus.holdsTokens(path) {
        _ = try TokenFile.shape(path)
      } else {
        try TextWindows.check(path, of: model, length: Self.length(length, outline))
      }
    }
    if !tasks.isEmpty {
      _ = try TaskRequests(folder: model.checkpoint.folder, longest: outline.maximumLength)
    }
  }

  private static func requireSameTokenizer(_ model: Model, _ reference: Model) throws {
    let paths = [model, reference].map { $0.checkpoint.folder + "/tokenizer.json" }
    guard try paths.allSatisfy({ try Folder.entry($0) != nil }),
      try SHA256.digest(ofFile: paths[0]) != SHA256.digest(ofFile: paths[1])
    else { return }
    throw EspalierError.usage(
      "the tokenizers of the two models differ, so they do not predict the same tokens.", subject: paths[1])
  }

  /// Takes all measures.
  ///
  /// - Parameters:
  ///   - reference: the model that it is compared with.
  ///   - scratch: a folder for temporary files; removed at the end.
  ///   - memory: bytes of hidden states that are held in memory; more go to files.
  ///   - sample: called for each row of each task with its prompts and their scores.
  public func run(
    _ model: Model, against reference: Model? = nil, scratch: String, memory: Int,
    progress: @escaping (_ done: Int, _ total: Int) throws -> Void = { _, _ in },
    sample: (JSON) -> Void = { _ in }, on device: Device
  ) throws -> EvaluationReport {
    try Folder.remove(scratch)
    try Folder.create(scratch)
    defer { try? Folder.remove(scratch) }
    let stream = BlockStream(
      members: [model, reference].compactMap(\.self).map {
        .init(model: $0, precision: precision.precision(of: $0.checkpoint))
      }, scratch: scratch, memory: memory, progress: progress, device: device)
    if let images = model.outline.images {
      return EvaluationReport(
        pruned: ModelScores(), dense: nil,
        comparisons: try texts.map { try stream.comparePixels($0, images) })
    }
    let windows = try texts.map {
      try TextWindows(
        $0, of: model, length: Self.length(length, model.outline), limit: self.windows, scratch: scratch)
    }
    guard model.blueprint.isCausal, model.blueprint.ending.head != nil else {
      return EvaluationReport(
        pruned: ModelScores(), dense: nil,
        comparisons: try windows.map { try stream.compareOutputs($0) })
    }
    return try score(windows, stream, sample)
  }

  private func score(
    _ texts: [TextWindows], _ stream: BlockStream, _ sample: (JSON) -> Void
  ) throws -> EvaluationReport {
    let model = stream.members[0].model
    let requests =
      tasks.isEmpty
      ? nil : try TaskRequests(folder: model.checkpoint.folder, longest: model.outline.maximumLength)
    let asked = try tasks.map { task in try requests.map { try task.sequences($0) } ?? [] }
    let scores = try stream.score(texts.flatMap(\.sequences) + asked.joined().joined())
    var next = 0
    func take(_ count: Int) -> ArraySlice<SequenceScores> {
      defer { next += count }
      return scores[next..<next + count]
    }
    var (own, dense, comparisons) = (ModelScores(), ModelScores(), [ComparisonReport]())
    let isCompared = stream.members.count > 1
    for text in texts {
      let found = take(text.windows.count)
      own.perplexities.append(text.perplexity(found.map(\.logProbabilities)))
      guard isCompared else { continue }
      dense.perplexities.append(text.perplexity(found.map(\.references)))
      comparisons.append(Comparison.report(text.name, found))
    }
    for (task, rows) in zip(tasks, asked) {
      let found = rows.map { Array(take($0.count)) }
      own.tasks.append(task.report(found))
      for (row, scores) in found.enumerated() { sample(task.sample(row, scores)) }
      if isCompared { dense.tasks.append(task.report(found.map { $0.map(\.ofReference) })) }
    }
    return EvaluationReport(pruned: own, dense: isCompared ? dense : nil, comparisons: comparisons)
  }
}

extension BlockStream {
  /// How the outputs of two models for images correlate.
  ///
  /// - Parameter path: a file of pixels.
  fileprivate func comparePixels(_ path: String, _ images: ModelOutline.Images) throws -> ComparisonReport {
    let file = try PixelFile.read(path, images)
    return try correlate(
      path.split(separator: "/").last.map(String.init) ?? path,
      [Int](repeating: images.tokens, count: file.rows)
    ) { batch, model, tensors in
      let pixels = batch.sequences.flatMap { image in (0..<images.count).map { file[image, $0] } }
      return try model.embed(
        pixels: Matrix(rows: batch.sequences.count, columns: images.count, pixels), tensors: tensors)
    }
  }

  /// How the outputs of two models for windows of a text correlate.
  fileprivate func compareOutputs(_ text: TextWindows) throws -> ComparisonReport {
    try correlate(text.name, text.windows.map(\.count)) { batch, model, tensors in
      try model.embed(
        batch.sequences.flatMap { text.windows[$0] }, length: batch.length, tensors: tensors)
    }
  }

  private func correlate(
    _ name: String, _ lengths: [Int], embed: (Batch, Model, TensorSource) throws -> Matrix
  ) throws -> ComparisonReport {
    var correlation = Correlation()
    try run(lengths, embed: embed) { _, states, tensors in
      let own = try members[0].model.finish(states(0), tensors: tensors[0])
      let reference = try members[1].model.finish(states(1), tensors: tensors[1])
      correlation.add(own, reference)
    }
    var report = ComparisonReport()
    report.text = name
    report.correlation = correlation.value
    return report
  }
}
