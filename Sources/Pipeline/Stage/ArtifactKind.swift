/// What an artifact holds. The names of kinds are in keys.
public enum ArtifactKind: String, Sendable {
  /// Token ids, samples x length.
  case tokens
  /// Hidden states that enter a block: a spill array of samples x length x width.
  case hidden
  /// Gram matrix or diagonal of a site.
  case factor
  /// What an allocation measured of a matrix.
  case measurement
  /// The sparsity of every matrix.
  case allocation
  /// Mask of a matrix, with its weights if they were fitted.
  case mask
  /// A record of what was written outside of the work folder.
  case output
  /// Perplexity and accuracy of an output.
  case evaluation
}
