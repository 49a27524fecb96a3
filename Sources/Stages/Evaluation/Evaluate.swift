import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline

/// Measures the pruned model: perplexity on a text, accuracy on questions.
public struct Evaluate: EvaluationStage {
  public static let descriptor = StageDescriptor(
    name: "evaluate",
    summary:
      "Measures the pruned model: window perplexity on a text, accuracy on multiple-choice questions.",
    revision: 1
  ) { .evaluation(Evaluate(&$0)) }

  private let text: String?
  private let length: Int?
  private let windows: Int?
  private let questions: String?
  private let limit: Int?
  private let dense: Bool

  init(_ parameters: inout Parameters) {
    text = parameters.optionalFile(
      "text", kind: Corpus.kind, "Text for the perplexity; the same kinds of files as for tokenize.corpus.")
    length = parameters.optionalInteger(
      "length", in: 2...1_048_576,
      "Tokens per window; none takes 2048, or the model's maximum if that is less.")
    windows = parameters.optionalInteger("windows", "Number of windows, from the start; none takes all.")
    questions = parameters.optionalFile("questions", "Multiple-choice questions, one JSON object per line.")
    limit = parameters.optionalInteger("limit", "Number of questions, from the start; none takes all.")
    dense = parameters.flag("dense", default: false, "Whether the original checkpoint is measured too.")
  }

  public var idleReason: String? {
    text == nil && questions == nil ? "nothing to measure: set evaluate.text or evaluate.questions" : nil
  }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    let tokens = max(1024, length ?? Self.defaultLength(sizes.model))
    let needs = text.map(Corpus.Needs.init)
    let scratch =
      linearScratchBytes(columns: sizes.model.widestInput, .f32) + attentionScratchBytes(length: tokens, .f32)
    let head = headWorkingSet(
      tokens: tokens, columns: sizes.model.hiddenSize, vocabulary: sizes.model.vocabularySize, models: 1, .f32,
      threads: sizes.threads)
    let largest = sizes.model.matrices.map { $0.parameters * sizes.weightBytes }.max() ?? 0
    let states = sizes.model.activationBytes(tokens: tokens, innerTokens: tokens)
    return WorkingSet(
      weightPages: min(linearResidentBytes, largest),
      activations: states + min(Scratch.limit, states) + sizes.threads * scratch + head,
      rows: (needs.map { $0.memory + $0.textBytes } ?? 0)
        + Corpus.tokenizerBytes(vocabulary: sizes.model.vocabularySize))
  }

  public func work(_ sizes: UnitSizes) -> Work {
    let length = length ?? Self.defaultLength(sizes.model)
    // A token has about four bytes of text, or four bytes as an id.
    func tokens(_ path: String?) -> Int {
      path.map { ((try? Folder.entry($0)) ?? nil)?.size ?? 0 }.map { $0 / 4 } ?? 0
    }
    let windows = min(windows ?? .max, tokens(text) / length) * length
    let all = (windows + tokens(questions)) * (dense ? 2 : 1)
    var work = Work()
    for block in sizes.model.blocks {
      work += block.forwardWork(sizes.model, tokens: all, length: length, precision: .f32)
    }
    let (hidden, blocks) = (all * sizes.model.hiddenSize, sizes.model.blocks.count)
    work.add(operations: 2 * Double(hidden) * Double(sizes.model.vocabularySize), .f32)
    work.encodedBytes = [.none: hidden * 4 * (blocks + 1)]
    work.decodedBytes = work.encodedBytes
    work.writtenBytes = hidden * 4 * (blocks + 1)
    let weights = sizes.model.matrices.reduce(sizes.model.vocabularySize * sizes.model.hiddenSize) {
      $0 + $1.rows * $1.columns
    }
    work.readBytes = (dense ? 2 : 1) * weights * sizes.weightBytes
    // The hidden states before and after a block.
    work.scratchBytes =
      2 * (windows + tokens(questions)) * sizes.model.hiddenSize * 4
      + (text.map { Corpus.Needs($0).scratch } ?? 0)
    return work
  }

  public func run(_ unit: UnitContext) throws -> EvaluationReport {
    let report = EvaluationReport(
      pruned: try measure(unit.output().path, unit),
      dense: dense ? try measure(unit.checkpoint.folder, unit) : nil)
    try Folder.writeAtomically(Array(report.json.prettyText.utf8), to: unit.folder + "/evaluation.json")
    return report
  }

  private func measure(_ folder: String, _ unit: UnitContext) throws -> ModelScores {
    let model = try Model(folder: folder, reading: unit.checkpoint.reading)
    let scratch = unit.folder + "/scratch"
    return ModelScores(
      perplexity: try text.map {
        try windowPerplexity(
          model, text: $0, length: length ?? Self.defaultLength(model.outline), windows: windows,
          scratch: scratch, progress: unit.progress, on: unit.device)
      },
      questions: try questions.map {
        try Questions(path: $0, limit: limit).ask(
          model, scratch: scratch, progress: unit.progress, on: unit.device)
      })
  }

  /// 2048 tokens as in the papers, or the model's maximum if that is less.
  public static func defaultLength(_ model: ModelOutline) -> Int { min(2048, model.maximumLength) }
}
