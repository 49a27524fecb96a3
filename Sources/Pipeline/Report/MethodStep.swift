import EspalierCore

/// What a stage does to a model, in a sentence for people who read results.
public struct MethodStep: Sendable {
  /// A publication.
  public struct Paper: Sendable {
    public let name: String
    public let address: String
  }

  /// One sentence, or a few.
  public let text: String
  public let papers: [Paper]
  /// A word for the method that a hub finds models by; nil if the stage is no method.
  public let tag: String?

  private init(_ text: String, _ papers: [Paper] = [], tag: String? = nil) {
    (self.text, self.papers, self.tag) = (text, papers, tag)
  }

  /// - Parameters:
  ///   - stage: the stage's name.
  ///   - summary: what it says of itself, for stages that did not come with espalier.
  ///   - parameters: all its parameters that decide results, by name.
  /// - Returns: nil if the stage does nothing that a reader has to know.
  public init?(stage: String, summary: String? = nil, parameters: JSON) {
    func word(_ name: String) -> String { parameters[name]?.string ?? "" }
    func count(_ name: String) -> Int { parameters[name]?.integer ?? 0 }
    switch stage {
    case "tokenize":
      let draw =
        word("draw") == "consecutive"
        ? "taken in order from the start" : "drawn at random with seed \(count("seed"))"
      self.init(
        "Calibration: \(Figures.grouped(count("samples"))) windows of \(Figures.grouped(count("length"))) tokens, \(draw)."
      )
    case "capture":
      switch word("propagate") {
      case "dense": self.init("Every matrix was calibrated on the inputs that it has in the dense model.")
      case "sites":
        self.init("Every matrix was calibrated on inputs that had passed all matrices pruned before it.")
      default: self.init("Every block was calibrated on the outputs of the pruned blocks before it.")
      }
    case "factor" where ["dense", "residual"].contains(word("target")):
      self.init(
        "Matrices were fitted to targets that go \(Figures.percent(parameters["repair"]?.double ?? 0, digits: 0)) of the way to the dense model's \(word("target") == "dense" ? "outputs" : "hidden states"), to make up for what was pruned before."
      )
    case "allocate":
      let isOWL = word("method") == "owl"
      self.init(
        "How sparse each matrix becomes was decided \(isOWL ? "by its outliers (OWL)" : word("method") == "error" ? "by measured output errors" : "uniformly").",
        isOWL ? [Paper(name: "OWL", address: "https://arxiv.org/abs/2310.05175")] : [],
        tag: isOWL ? "owl" : nil)
    case "warmStart":
      switch word("method") {
      case "magnitude": self.init("First masks keep the largest weights.", tag: "magnitude")
      case "ria":
        self.init(
          "First masks by RIA.",
          [Paper(name: "RIA", address: "https://openreview.net/forum?id=Tr0lPx9woF")], tag: "ria")
      default:
        self.init(
          "First masks by Wanda: a weight's size times the norm of its input.",
          [Paper(name: "Wanda", address: "https://arxiv.org/abs/2306.11695")], tag: "wanda")
      }
    case "swap":
      let isFitted = word("objective") == "refit"
      self.init(
        isFitted
          ? "Swaps of a kept for a pruned weight that lower the output error after the kept weights are fitted, and the fit itself."
          : "Masks were refined by swaps of a kept for a pruned weight, each the one that lowers the output error most, to the local optimum.",
        [Paper(name: "SparseSwaps", address: "https://arxiv.org/abs/2512.10922")], tag: "sparseswaps")
    case "frankWolfe":
      self.init(
        "Masks were relaxed and optimized by Frank-Wolfe, which also bounds how far they are from the best.",
        [Paper(name: "SparseFW", address: "https://arxiv.org/abs/2510.13713")], tag: "sparsefw")
    case "dsnot":
      self.init(
        "Masks were changed by DSnoT.", [Paper(name: "DSnoT", address: "https://arxiv.org/abs/2310.08915")],
        tag: "dsnot")
    case "reconstruct": self.init("The kept weights were fitted anew on the masks.")
    case "sparseGPT":
      self.init(
        "Masks and weights together by SparseGPT.",
        [Paper(name: "SparseGPT", address: "https://arxiv.org/abs/2301.00774")], tag: "sparsegpt")
    case "admm":
      self.init(
        "Masks and weights together by ADMM, after ALPS.",
        [Paper(name: "ALPS", address: "https://arxiv.org/abs/2406.07831")], tag: "alps")
    case "factor", "emit", "evaluate": return nil
    default: self.init(summary.map { "\(stage): \($0)" } ?? "The stage \(stage).")
    }
  }
}
