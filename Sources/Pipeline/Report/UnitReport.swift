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
  public private(set) var samples = 0
  /// Tokens of a sample.
  public private(set) var length = 0
  public var tokens: Int { samples * length }

  public init() {}

  public init(samples: Int, length: Int) { (self.samples, self.length) = (samples, length) }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("samples", &samples)
    members.value("length", &length)
  }
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

  public init() {}

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("method", &method)
    members.value("matrices", &matrices)
    members.value("leastSparsity", &leastSparsity)
    members.value("mostSparsity", &mostSparsity)
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

  /// The models with their names.
  public var models: [(name: String, scores: ModelScores)] {
    (dense.map { [("dense", $0)] } ?? []) + [("pruned", pruned)]
  }

  public init() {}

  public init(pruned: ModelScores, dense: ModelScores?) { (self.pruned, self.dense) = (pruned, dense) }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("pruned", &pruned)
    members.value("dense", &dense)
  }
}

/// How good one model is.
public struct ModelScores: ReportPart, ReportValue {
  public private(set) var perplexity: PerplexityReport?
  public private(set) var questions: QuestionsReport?

  public init() {}

  public init(perplexity: PerplexityReport?, questions: QuestionsReport?) {
    (self.perplexity, self.questions) = (perplexity, questions)
  }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("perplexity", &perplexity)
    members.value("questions", &questions)
  }
}

/// Window perplexity: the exponential of the mean over windows of the mean cross-entropy over `length - 1` predictions.
public struct PerplexityReport: ReportPart, ReportValue {
  public private(set) var perplexity = 0.0
  /// Tokens of a window.
  public private(set) var length = 0
  public private(set) var windows = 0
  public private(set) var tokens = 0

  public init() {}

  public init(perplexity: Double, length: Int, windows: Int) {
    (self.perplexity, self.length, self.windows) = (perplexity, length, windows)
    tokens = windows * length
  }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("perplexity", &perplexity)
    members.constant("definition", "window")
    members.value("length", &length)
    members.value("windows", &windows)
    members.value("tokens", &tokens)
  }
}

/// Answers to multiple-choice questions.
public struct QuestionsReport: ReportPart, ReportValue {
  public private(set) var questions = 0
  /// Share of questions whose right choice has the largest summed log-probability.
  public private(set) var accuracy = 0.0
  /// The same with the sum divided by the characters of the choice; nil for questions by context.
  public private(set) var normalizedAccuracy: Double?

  public init() {}

  public init(questions: Int, accuracy: Double, normalizedAccuracy: Double?) {
    (self.questions, self.accuracy, self.normalizedAccuracy) = (questions, accuracy, normalizedAccuracy)
  }

  public mutating func visit(_ members: inout ReportMembers) {
    members.value("questions", &questions)
    members.value("acc", &accuracy)
    members.value("acc_norm", &normalizedAccuracy)
  }
}
