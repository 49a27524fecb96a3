import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierStageKit

/// Measures the pruned model: perplexity on texts, tasks, and how far it is from the dense one.
public struct Evaluate: EvaluationStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "evaluate",
    summary:
      "Measures the pruned model: window perplexity on texts, tasks of the EleutherAI harness, divergence from the dense model.",
    revision: 2
  ) { .evaluation(Evaluate(&$0)) }

  private let texts: [String]
  private let length: Int?
  private let windows: Int?
  private let tasks: [TaskFile]
  private var options = TaskOptions()
  private let dense: Bool
  private let products: ProductPrecision

  init(_ parameters: inout Parameters) {
    texts = parameters.files(
      "text", kind: Corpus.kind,
      "Texts for the perplexity, one file or a list; the same kinds of files as for tokenize.corpus.")
    length = parameters.optionalInteger(
      "length", in: 2...1_048_576,
      "Tokens per window; none takes 2048, or the model's maximum if that is less.")
    windows = parameters.optionalInteger(
      "windows", "Number of windows of each text, from the start; none takes all.")
    let rows = parameters.namedFiles(
      "tasks",
      "Tasks as NAME=FILE, one or a list, with rows as JSON lines; the names are \(TaskFile.names.joined(separator: ", "))."
    )
    let examples = parameters.namedFiles(
      "examples",
      "Rows from which a task's few-shot examples are drawn, as NAME=FILE; without them, a task's own rows.")
    options.limit = parameters.optionalInteger(
      "limit", "Number of rows of each task, from the start; none takes all.")
    options.shots = parameters.integer(
      "shots", default: 0, in: 0...1000, "Examples before each row of a task.")
    options.seed = parameters.integer(
      "seed", default: 1234, in: 0...Int(UInt32.max), "Seed of the draw of examples; 1234 is the harness's.")
    dense = parameters.flag(
      "dense", default: false,
      "Whether the original checkpoint is measured too, and how far the pruned one is from it.")
    products = parameters.choice("precision", default: .auto, ProductPrecision.text)
    tasks = rows.map { row in
      TaskFile(name: row.name, path: row.path, examples: examples.first { $0.name == row.name }?.path)
    }
    for example in examples where !rows.contains(where: { $0.name == example.name }) {
      parameters.reject("there are examples of \(example.name), but no rows of it in tasks.")
    }
  }

  public var idleReason: String? {
    texts.isEmpty && tasks.isEmpty ? "nothing to measure: set evaluate.text or evaluate.tasks" : nil
  }

  public func precision(of checkpoint: Checkpoint) -> Precision { products.precision(of: checkpoint) }

  private func evaluation() throws -> Evaluation {
    try Evaluation(
      texts: texts, length: length, windows: windows, tasks: tasks, options: options, precision: products)
  }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws {
    guard idleReason == nil else { return }
    let dense = try Model(checkpoint)
    try evaluation().check(dense, against: self.dense ? dense : nil)
  }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let evaluation = try? evaluation() else { return WorkingSet() }
    let models = dense ? 2 : 1
    let needed = tokens(evaluation, sizes.model)
    // A batch, or one sequence that is longer.
    let longest = max(
      texts.isEmpty ? 0 : Evaluation.length(length, sizes.model),
      min(sizes.model.maximumLength, evaluation.tasks.map(\.longestByteCount).max() ?? 0))
    let batch = max(min(needed.all, BlockStream.batchTokens), longest)
    let scratch =
      linearScratchBytes(columns: sizes.model.widestInput, sizes.precision)
      + attentionScratchBytes(length: longest, sizes.precision)
    let head = headWorkingSet(
      tokens: min(batch, BlockStream.batchTokens), columns: sizes.model.hiddenSize,
      vocabulary: sizes.model.vocabularySize, models: models, sizes.precision, threads: sizes.threads)
    let largest = sizes.model.matrices.map { $0.parameters * sizes.weightBytes }.max() ?? 0
    let states = sizes.model.activationBytes(tokens: batch, innerTokens: batch)
    return WorkingSet(
      weightPages: max(Capture.keptBytes, min(linearResidentBytes, largest)),
      activations: states + min(Scratch.limit, states) + max(sizes.threads * scratch, head)
        + min(2 * models * needed.all * sizes.model.hiddenSize * 4, Self.heldBytes(sizes)),
      rows: (texts.map { CorpusNeeds($0) }.map { $0.memory + $0.textBytes }.max() ?? 0)
        + evaluation.tasks.reduce(0) { $0 + 8 * $1.byteCount }
        + Corpus.tokenizerBytes(vocabulary: sizes.model.vocabularySize))
  }

  /// Hidden states that are held in memory.
  private static func heldBytes(_ sizes: UnitSizes) -> Int { sizes.available / 4 }

  /// About how many tokens pass the blocks and the head.
  private func tokens(_ evaluation: Evaluation, _ model: ModelOutline) -> (all: Int, scored: Int) {
    // A token has about four bytes of text, or four bytes as an id.
    let length = Evaluation.length(length, model)
    let inTexts = texts.reduce(0) { sum, path in
      sum + min(windows ?? .max, CorpusNeeds(path).textBytes / 4 / length) * length
    }
    let bytes = evaluation.tasks.map { $0.byteCount }.reduce(0, +)
    let scored = evaluation.tasks.map { $0.scoredByteCount }.reduce(0, +)
    return (inTexts + bytes / 4, inTexts + scored / 4)
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let evaluation = try? evaluation() else { return Work() }
    let models = dense ? 2 : 1
    let length = Evaluation.length(length, sizes.model)
    let needed = tokens(evaluation, sizes.model)
    var work = Work()
    for block in sizes.model.blocks {
      work.add(
        block.forwardWork(
          sizes.model, tokens: models * needed.all, length: length, precision: sizes.precision))
    }
    let hidden = needed.all * sizes.model.hiddenSize
    work.add(
      operations: 2 * Double(models * needed.scored * sizes.model.hiddenSize)
        * Double(sizes.model.vocabularySize),
      sizes.precision)
    let stateBytes = models * hidden * 4
    if stateBytes > Self.heldBytes(sizes) {
      work.writtenBytes = stateBytes * (sizes.model.blocks.count + 1)
      work.scratchBytes = stateBytes
    }
    let weights = sizes.model.matrices.reduce(sizes.model.vocabularySize * sizes.model.hiddenSize) {
      $0 + $1.rows * $1.columns
    }
    work.readBytes = models * weights * sizes.weightBytes + (work.writtenBytes)
    work.scratchBytes = max(work.scratchBytes, texts.map { CorpusNeeds($0).scratch }.max() ?? 0)
    return work
  }

  public func run(_ unit: UnitContext) throws -> EvaluationReport {
    let evaluation = try evaluation()
    let pruned = try Model(folder: try unit.output().path, reading: unit.checkpoint.reading)
    let dense = dense ? try Model(unit.checkpoint) : nil
    let report = try evaluation.run(
      pruned, against: dense, scratch: unit.folder + "/scratch", memory: Self.heldBytes(unit.sizes),
      progress: unit.progress, on: unit.device)
    try Folder.writeAtomically(Array(report.json.prettyText.utf8), to: unit.folder + "/evaluation.json")
    return report
  }
}
