import EspalierCore

/// Digests of what a job reads.
public struct JobSources: Sendable {
  /// A file that a parameter names.
  public struct File: Sendable {
    /// The stage's id in the recipe.
    public let stage: String
    public let parameter: String
    /// The last component of its path.
    public let name: String
    /// SHA-256 of its bytes.
    public let digest: Digest
  }

  /// One digest of all tensors of the checkpoint: of their names, types, shapes and bytes.
  public let tensors: Digest
  /// Digest of the content of `config.json`.
  public let configuration: Digest
  /// In the order of the recipe.
  public let files: [File]
}
