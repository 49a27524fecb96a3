import EspalierCore

/// Sizes that decide what a unit needs: memory, bytes on the disk, operations.
///
/// Names and positions decide nothing: units with the same sizes are asked once.
public struct UnitSizes: Sendable {
  public let model: ModelOutline
  public let role: Unit.Role
  public let samples: Int
  public let length: Int
  /// Tokens that stream together; decided by the sizes alone, so that results do not depend on memory.
  public let batchTokens: Int
  /// The block of a unit that belongs to one.
  public let block: ModelOutline.Block?
  public let site: ModelOutline.Site?
  public let matrix: ModelOutline.Matrix?
  /// The pattern of the mask that the unit makes, as far as it is known before any work.
  public let pattern: SparsityPattern?
  /// The share of the sequences that a site keeps apart.
  public let holdOut: Double
  /// How products of a forward pass are computed.
  public let precision: Precision
  /// Bytes of a weight in the checkpoint.
  public let weightBytes: Int
  /// Bytes of all tensors of the checkpoint that the unit reads.
  public let tensorBytes: Int
  /// Bytes of the factor of a matrix's site, mapped, where the unit reads it.
  public let factorBytes: Int
  public let threads: Int
  /// Bytes of memory that the unit may use: what the job may use, less what the process holds and, for a site, what its
  /// source needs. A stage that does with less where there is less decides by it, and never what the result is.
  public let available: Int

  /// Calibration tokens.
  public var tokens: Int { samples * length }

  /// Calibration tokens that reach the site, about: fewer than all for an expert to which tokens are routed.
  public var siteTokens: Int { Int((Double(tokens) * (site?.tokenShare ?? 1)).rounded(.up)) }
}
