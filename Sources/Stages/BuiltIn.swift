import EspalierPipeline

extension StageRegistry {
  /// The stages that come with espalier, in the order in which a pipeline uses them.
  public static let builtIn = StageRegistry(stages.map { $0.descriptor })

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
}
