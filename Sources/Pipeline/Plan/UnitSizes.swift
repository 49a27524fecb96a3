import EspalierCore

/// Everything that decides what a unit needs: memory, bytes on the disk, operations.
///
/// A stage is asked once for all units with the same sizes, so names and positions must not matter.
public struct UnitSizes: Sendable {
  public let model: ModelOutline
  public let task: Unit.Task
  public let samples: Int
  public let length: Int
  /// In how many shards the calibration windows go.
  public let shards: Int
  /// Tokens that stream together. The number does not depend on memory, so that results do not.
  public let batchTokens: Int
  /// The unit's block, if it belongs to one.
  public let block: ModelOutline.Block?
  public let site: ModelOutline.Site?
  public let matrix: ModelOutline.Matrix?
  /// The pattern of the mask that the unit makes; nil if it is not known before any work. Then a stage plans for the worst case.
  public let pattern: SparsityPattern?
  /// Whether rows of that mask may keep different numbers of weights.
  public let isAcrossRows: Bool
  /// Whether hidden states are written while the unit runs: its own, or those of a unit that streams with it.
  public let writesHidden: Bool
  /// Whether the sites that stream with the unit have their inputs at the cut from which the block streams, or just behind it.
  public let endsAtCut: Bool
  /// The share of the sequences that is left out of a site's factor.
  public let holdOut: Double
  /// What the outputs of pruned matrices should be.
  public let target: Target
  /// Whether hidden states are kept without rounding.
  public let statesAreExact: Bool
  /// Whether only the diagonal of a site's Gram matrix is needed.
  public let diagonalIsEnough: Bool
  /// Precision of products in the forward pass.
  public let precision: Precision
  /// Bytes of a weight in the checkpoint.
  public let weightBytes: Int
  /// Bytes of all tensors of the checkpoint that the unit reads.
  public let tensorBytes: Int
  /// Bytes of the mapped factor of a matrix's site; 0 if the unit does not read it.
  public let factorBytes: Int
  public let threads: Int
  /// Bytes of memory that the unit may use: the job's limit, less what the process holds and, for a site, what its source needs.
  /// It may change how a stage computes, never the result.
  public let available: Int

  /// Whether the unit reads a Gram matrix, whole or of low rank, and not only its diagonal.
  public var readsGram: Bool { factorBytes > 2 * 8 * (matrix?.columns ?? 0) }

  /// Windows of the largest shard.
  public var shardSamples: Int { WindowShards(windows: samples, count: shards).most }

  /// Calibration tokens.
  public var tokens: Int { samples * length }

  /// About how many calibration tokens reach the site; an expert sees only the tokens that are routed to it.
  public var siteTokens: Int { Int((Double(tokens) * (site?.tokenShare ?? 1)).rounded(.up)) }
}
