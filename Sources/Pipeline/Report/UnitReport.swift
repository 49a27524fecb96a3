import EspalierCore
import EspalierIO

/// What a stage reports of a unit. It is stored in the manifest and in the event log, and read back for reports.
public enum UnitReport: Sendable {
  case corpus(CorpusReport)
  case hidden(HiddenReport)
  case factor(FactorReport)
  case allocation(AllocationReport)
  case matrix(MatrixReport)
  case output(OutputReport)
  case evaluation(EvaluationReport)

  private var kindAndPart: (kind: String, part: any ReportPart) {
    switch self {
    case .corpus(let report): ("corpus", report)
    case .hidden(let report): ("hidden", report)
    case .factor(let report): ("factor", report)
    case .allocation(let report): ("allocation", report)
    case .matrix(let report): ("matrix", report)
    case .output(let report): ("output", report)
    case .evaluation(let report): ("evaluation", report)
    }
  }

  /// The members of the report after its `kind`.
  public var json: JSON {
    let (kind, part) = kindAndPart
    return .object(JSONObject([("kind", .string(kind))] + (part.json.object?.members ?? [])))
  }

  /// Reads what ``json`` gave; nil for anything else.
  public init?(json: JSON) {
    func read<Part: ReportPart>(_ wrap: (Part) -> UnitReport) -> UnitReport? { Part(json: json).map(wrap) }
    let report: UnitReport? =
      switch json["kind"]?.string {
      case "corpus": read(UnitReport.corpus)
      case "hidden": read(UnitReport.hidden)
      case "factor": read(UnitReport.factor)
      case "allocation": read(UnitReport.allocation)
      case "matrix": read(UnitReport.matrix)
      case "output": read(UnitReport.output)
      case "evaluation": read(UnitReport.evaluation)
      default: nil
      }
    guard let report else { return nil }
    self = report
  }
}

/// The calibration data.
public struct CorpusReport: ReportPart {
  /// One file, folder or pattern that samples come from.
  public struct Source: ReportPart, ReportValue {
    /// The last component of its path.
    public private(set) var name = ""
    public private(set) var files = 0
    public private(set) var weight = 0.0
    public private(set) var samples = 0

    public init() {}

    init(_ part: FileMix.Part, samples: Int) {
      (name, files) = (Folder.name(of: part.path), part.files.count)
      (weight, self.samples) = (part.weight, samples)
    }

    public mutating func visit(_ members: inout ReportMembers) {
      members.value("name", &name)
      members.value("files", &files)
      members.value("weight", &weight)
      members.value("samples", &samples)
    }
  }

  public private(set) var samples = 0
  /// Tokens of a sample.
  public private(set) var length = 0
  /// How samples are chosen, and the seed if that is at random.
  public private(set) var draw: String?
  public private(set) var seed: Int?
  public private(set) var sources: [Source]?
  public var tokens: Int {
    let (tokens, overflow) = samples.multipliedReportingOverflow(by: length)
    return overflow ? .max : tokens
  }

  public init() {}

  public init(
    samples: Int, length: Int, draw: String? = nil, seed: Int? = nil, from mix: FileMix? = nil
  ) {
    (self.samples, self.length, self.draw, self.seed) = (samples, length, draw, seed)
    sources = mix.map { mix in
      zip(mix.parts, mix.shares(of: samples)).map { Source($0, samples: $1) }
    }
  }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("samples", &samples)
    members.value("length", &length)
    members.value("draw", &draw)
    members.value("seed", &seed)
    members.value("sources", &sources)
  }
}

extension CorpusReport: CustomStringConvertible {
  /// As in `128 samples of 2048 tokens, draw: random, seed: 0; 96 from c4.jsonl.gz (weight 3), 32 from 12 files of notes (weight 1)`.
  public var description: String {
    let how = [draw.map { "draw: \($0)" }, seed.map { "seed: \($0)" }].compactMap(\.self)
    let what = (["\(samples) samples of \(length) tokens"] + how).joined(separator: ", ")
    return origin.map { "\(what); \(sources?.count == 1 ? "from " : "")\($0)" } ?? what
  }

  /// Where the samples come from; nil if that was not recorded.
  public var origin: String? {
    guard let sources, let first = sources.first else { return nil }
    guard sources.count > 1 else { return first.place }
    return sources.map { "\($0.samples) from \($0.place) (weight \(Self.shown($0.weight)))" }
      .joined(separator: ", ")
  }

  private static func shown(_ weight: Double) -> String {
    Int(exactly: weight).map(String.init) ?? "\(weight)"
  }
}

extension CorpusReport.Source {
  fileprivate var place: String { files == 1 ? name : "\(files) files of \(name)" }
}

/// Hidden states before a block.
public struct HiddenReport: ReportPart {
  public private(set) var samples = 0

  public init() {}

  public init(samples: Int) { self.samples = samples }

  public mutating func visit(_ members: inout ReportMembers) { members.value("samples", &samples) }
}

/// The factor of a site.
public struct FactorReport: ReportPart {
  public var columns = 0
  /// Tokens that it was made from, and tokens that were held out.
  public var tokens = 0
  public var heldOutTokens = 0
  /// Tokens that the router sent to the site; nil if it belongs to no expert.
  public var routedTokens: Int?
  /// Whether inputs of tokens that are routed elsewhere were added, because too few are routed here.
  public var isShrunk = false
  /// Rows of a factor of low rank, and the share of the inputs' energy that it leaves to the diagonal, from 0 to 1.
  public var rank: Int?
  public var discardedEnergy: Double?
  /// Digest of the inputs that are kept beside the factor.
  public var inputs: Digest?

  public init() {}

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("columns", &columns)
    members.value("tokens", &tokens)
    members.value("heldOutTokens", &heldOutTokens)
    members.value("routedTokens", &routedTokens)
    members.value("shrunk", &isShrunk)
    members.value("rank", &rank)
    members.value("discardedEnergy", &discardedEnergy)
    members.value("inputs", &inputs)
  }
}

/// How a sparsity was spread over the matrices.
public struct AllocationReport: ReportPart {
  public var method = ""
  public var matrices = 0
  public var leastSparsity = 0.0
  public var mostSparsity = 0.0
  /// Over all weights.
  public var meanSparsity = 0.0

  public init() {}

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("method", &method)
    members.value("matrices", &matrices)
    members.value("leastSparsity", &leastSparsity)
    members.value("mostSparsity", &mostSparsity)
    members.value("meanSparsity", &meanSparsity)
  }
}

/// What a stage did to the mask of one matrix.
public struct MatrixReport: ReportPart {
  /// The module's name.
  public private(set) var matrix = ""
  public private(set) var rows = 0
  public private(set) var columns = 0
  public private(set) var pattern = SparsityPattern.rows(sparsity: 0)
  /// The error of the outputs on the calibration data with the previous and with the new mask; nil if it was not computed.
  public var lossBefore: Double?
  public var lossAfter: Double?
  /// A bound that no mask of the pattern can go below, if a stage proved one.
  public var lowerBound: Double?
  public var swaps: Int?
  /// What only this stage reports.
  public var details = JSONObject()

  /// Weights that the mask keeps.
  public var kept: Int { rows * pattern.kept(ofColumns: columns) }

  /// The most by which the mask can be worse than the best one: `1 - lowerBound / lossAfter`.
  public var certifiedGap: Double? { Self.gap(lossAfter, lowerBound) }

  static func gap(_ loss: Double?, _ bound: Double?) -> Double? {
    guard let loss, let bound, loss > 0 else { return nil }
    return 1 - bound / loss
  }

  public init() {}

  public init(_ matrix: ModelOutline.Matrix, _ pattern: SparsityPattern) {
    (self.matrix, rows, columns, self.pattern) = (matrix.module, matrix.rows, matrix.columns, pattern)
  }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("matrix", &matrix)
    members.value("rows", &rows)
    members.value("columns", &columns)
    members.value("pattern", &pattern)
    members.value("lossBefore", &lossBefore)
    members.value("lossAfter", &lossAfter)
    members.value("lowerBound", &lowerBound)
    members.value("swaps", &swaps)
    members.value("details", &details)
  }
}

/// A pruned model that was written.
public struct OutputReport: ReportPart {
  public private(set) var matrices = 0
  public private(set) var files = 0
  /// Of all files.
  public private(set) var digest = SHA256.digest(of: "")

  public init() {}

  public init(matrices: Int, files: Int, digest: Digest) {
    (self.matrices, self.files, self.digest) = (matrices, files, digest)
  }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("matrices", &matrices)
    members.value("files", &files)
    members.value("digest", &digest)
  }
}

/// How good models are.
public struct EvaluationReport: ReportPart {
  public private(set) var pruned = ModelScores()
  /// Of the model before pruning, if it was measured too.
  public private(set) var dense: ModelScores?
  /// How far the pruned model is from that one, for each text.
  public private(set) var comparisons: [ComparisonReport] = []

  /// The models with their names.
  public var models: [(name: String, scores: ModelScores)] {
    (dense.map { [("dense", $0)] } ?? []) + [("pruned", pruned)]
  }

  public init() {}

  public init(pruned: ModelScores, dense: ModelScores?, comparisons: [ComparisonReport]) {
    (self.pruned, self.dense, self.comparisons) = (pruned, dense, comparisons)
  }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("pruned", &pruned)
    members.value("dense", &dense)
    members.value("comparisons", &comparisons)
  }
}

/// How good one model is.
public struct ModelScores: ReportPart, ReportValue {
  public var perplexities: [PerplexityReport] = []
  public var tasks: [TaskReport] = []

  public init() {}

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("perplexities", &perplexities)
    members.value("tasks", &tasks)
  }
}

/// Window perplexity: the exponential of the mean over windows of the mean cross-entropy over `length - 1` predictions.
public struct PerplexityReport: ReportPart, ReportValue {
  /// Name of the file.
  public private(set) var text = ""
  public private(set) var perplexity = 0.0
  /// Its standard error over the predictions, as if they were independent.
  public private(set) var error = 0.0
  /// Tokens of a window.
  public private(set) var length = 0
  public private(set) var windows = 0
  public private(set) var tokens = 0

  public init() {}

  public init(text: String, perplexity: Double, error: Double, length: Int, windows: Int) {
    (self.text, self.perplexity, self.error) = (text, perplexity, error)
    (self.length, self.windows) = (length, windows)
    tokens = windows * length
  }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("text", &text)
    members.value("perplexity", &perplexity)
    members.value("perplexity_stderr", &error)
    members.constant("definition", "window")
    members.value("length", &length)
    members.value("windows", &windows)
    members.value("tokens", &tokens)
  }
}

/// A task's measures, under the names of the EleutherAI harness.
public struct TaskReport: ReportPart, ReportValue {
  public private(set) var task = ""
  public private(set) var rows = 0
  /// Examples before each row.
  public private(set) var shots = 0
  /// `acc`, `acc_stderr`, `acc_norm`, `perplexity`, `word_perplexity`, ...
  public private(set) var metrics = JSONObject()

  public init() {}

  public init(task: String, rows: Int, shots: Int, metrics: JSONObject) {
    (self.task, self.rows, self.shots, self.metrics) = (task, rows, shots, metrics)
  }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("task", &task)
    members.value("rows", &rows)
    members.value("shots", &shots)
    members.value("metrics", &metrics)
  }
}

/// How far a model is from the one that it was pruned from, over all predictions of a text, as llama.cpp's `--kl-divergence` measures
/// it; of a model that predicts no tokens, how its outputs correlate with those of the other one.
public struct ComparisonReport: ReportPart, ReportValue {
  /// Name of the file.
  public var text = ""
  public var predictions: Int?
  /// Mean, median and largest Kullback-Leibler divergence from the dense model's distribution to the pruned one's, in nats, and the
  /// standard error of the mean.
  public var divergence: Double?
  public var divergenceError: Double?
  public var medianDivergence: Double?
  public var largestDivergence: Double?
  /// The share of predictions for which both models find the same token most probable, and its standard error.
  public var agreement: Double?
  public var agreementError: Double?
  /// The pruned model's perplexity divided by the dense one's, both over all predictions, and its standard error.
  public var ratio: Double?
  public var ratioError: Double?
  /// Pearson's correlation of the outputs.
  public var correlation: Double?

  public init() {}

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("text", &text)
    members.value("predictions", &predictions)
    members.value("kl_divergence", &divergence)
    members.value("kl_divergence_stderr", &divergenceError)
    members.value("kl_divergence_median", &medianDivergence)
    members.value("kl_divergence_max", &largestDivergence)
    members.value("same_first_choice", &agreement)
    members.value("same_first_choice_stderr", &agreementError)
    members.value("perplexity_ratio", &ratio)
    members.value("perplexity_ratio_stderr", &ratioError)
    members.value("correlation", &correlation)
  }
}
