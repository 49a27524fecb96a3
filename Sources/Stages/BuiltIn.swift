import EspalierPipeline

extension StageRegistry {
  /// The stages that come with espalier, in the order in which a pipeline uses them.
  public static let builtIn = StageRegistry([
    Tokenize.descriptor,
    Capture.descriptor,
    Factor.descriptor,
    Allocate.descriptor,
    WarmStart.descriptor,
    Swap.descriptor,
    FrankWolfe.descriptor,
    DSnoT.descriptor,
    Reconstruct.descriptor,
    SparseGPT.descriptor,
    ADMM.descriptor,
    Emit.descriptor,
    Evaluate.descriptor,
  ])
}
