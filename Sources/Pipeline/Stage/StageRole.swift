/// What a stage does in a pipeline, with the stage that does it. The cases are in the order in which stages run.
public enum StageRole: Sendable {
  /// Runs once, before the blocks.
  case corpus(any CorpusStage)
  /// Streams each block.
  case source(any SourceStage)
  /// Runs for each site while its block streams.
  case site(any SiteStage)
  /// Measures the matrices of the dense model, then runs once.
  case allocation(any AllocationStage)
  /// Runs for each matrix.
  case matrix(any MatrixStage)
  /// Runs once, after the last block.
  case output(any OutputStage)
  /// Runs once, after the output is written.
  case evaluation(any EvaluationStage)

  /// The stage, if only what all stages have in common matters.
  public var stage: any Stage {
    switch self {
    case .corpus(let stage): stage
    case .source(let stage): stage
    case .site(let stage): stage
    case .allocation(let stage): stage
    case .matrix(let stage): stage
    case .output(let stage): stage
    case .evaluation(let stage): stage
    }
  }

  /// The place of the role in a recipe, counted from 0.
  var rank: Int {
    switch self {
    case .corpus: 0
    case .source: 1
    case .site: 2
    case .allocation: 3
    case .matrix: 4
    case .output: 5
    case .evaluation: 6
    }
  }

  public var corpus: (any CorpusStage)? { if case .corpus(let stage) = self { stage } else { nil } }
  public var source: (any SourceStage)? { if case .source(let stage) = self { stage } else { nil } }
  public var site: (any SiteStage)? { if case .site(let stage) = self { stage } else { nil } }
  public var allocation: (any AllocationStage)? {
    if case .allocation(let stage) = self { stage } else { nil }
  }
  public var matrix: (any MatrixStage)? { if case .matrix(let stage) = self { stage } else { nil } }
  public var output: (any OutputStage)? { if case .output(let stage) = self { stage } else { nil } }
  public var evaluation: (any EvaluationStage)? {
    if case .evaluation(let stage) = self { stage } else { nil }
  }
}
