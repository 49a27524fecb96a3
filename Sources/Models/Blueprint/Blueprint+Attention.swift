import EspalierCore
import EspalierKernels

extension Blueprint {
  public struct Attention: Sendable {
    public var projections: Projections
    /// Norms of queries, keys and values, over each head or the whole row.
    public var queryNorm: Norm?
    public var keyNorm: Norm?
    public var valueNorm: Norm?
    /// Whether queries and keys are normed after the rotation.
    public var normsAfterRotation = false
    /// Largest magnitude of queries, keys and values after their norms; nil for none.
    public var limit: Float?
    public var rotary: Rotary?
    public var shape: AttentionShape
    /// One learned score for each head, which takes a share of its softmax.
    public var sinks: Parameter?
    /// Whether each head's queries are followed by as many values that gate the output through a sigmoid.
    public var isGated = false
    public var output: Linear

    public var queryWidth: Int { shape.heads * shape.headSize }
    public var keyWidth: Int { shape.keyHeads * shape.headSize }
    public var valueWidth: Int { shape.keyHeads * shape.valueSize }
    public var outputWidth: Int { shape.heads * shape.valueSize }
  }

  /// The layers that make queries, keys and values.
  public enum Projections: Sendable {
    /// Three layers; without a layer for values, the values are the keys before norm and rotation.
    case separate(query: Linear, key: Linear, value: Linear?)
    case fused(Linear, FusedOrder)
    case latent(Latent)
  }

  /// The order of the rows of a fused layer.
  public enum FusedOrder: Sendable, Hashable {
    /// All queries, all keys, all values.
    case blocks
    /// For each head of the keys: its queries, its key, its value.
    case groups
  }

  /// Multi-head latent attention (DeepSeek-V2, section 2.1): keys and values come from one narrow vector, part of which is rotated and
  /// shared by all heads.
  public struct Latent: Sendable {
    /// To queries, or to their latent vector if there is `queryUp`.
    public var query: Linear
    public var queryNorm: Norm?
    public var queryUp: Linear?
    /// To the latent vector and the rotated part of the keys.
    public var keyValue: Linear
    public var keyValueNorm: Norm
    /// For each head: the part of the key that is not rotated, then the value.
    public var keyValueUp: Linear
    public var rank: Int
    public var rotated: Int
    public var plain: Int
  }
}
