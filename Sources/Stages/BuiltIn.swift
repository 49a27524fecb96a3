import EspalierPipeline

extension StageRegistry {
  /// The stages that come with espalier, in the order in which a pipeline uses them.
  public static let builtIn = StageRegistry(stages.map { $0.descriptor }, methods: methods)

  private static let stages: [any StageDefinition.Type] = [
    Tokenize.self,
    Capture.self,
    Factor.self,
    Allocate.self,
    WarmStart.self,
    Swap.self,
    FrankWolfe.self,
    DSnoT.self,
    Reconstruct.self,
    SparseGPT.self,
    ADMM.self,
    Emit.self,
    Evaluate.self,
  ]

  /// Published methods, and how a recipe says them.
  private static let methods = [
    "magnitude": "`- warmStart: {method: magnitude, sparsity: 0.5}`",
    "wanda": "`- warmStart: {method: wanda, sparsity: 0.5}`",
    "ria": "`- warmStart: {method: ria, sparsity: 0.5}`",
    "sparseswaps": "`- warmStart: {method: wanda, sparsity: 0.5}` and after it `- swap`",
    "sparsefw": "`- warmStart: {method: wanda, sparsity: 0.5}` and after it `- frankWolfe`",
    "alps": "`- admm: {sparsity: 0.5}`",
    "obs": "`- sparseGPT: {sparsity: 0.5}`",
    "gptq": "`- sparseGPT: {sparsity: 0.5}`, which prunes in the way of GPTQ; nothing here quantizes",
    "owl":
      "`- allocate: {method: owl, sparsity: 0.6}`, and `sparsity: allocated` in the stage that makes masks",
  ]
}
