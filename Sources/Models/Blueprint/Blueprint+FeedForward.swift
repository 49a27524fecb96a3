import EspalierCore
import EspalierKernels

extension Blueprint {
  public struct MLP: Sendable {
    public var input: Input
    public var activation: Gate
    public var down: Linear
    public var hiddenSize: Int { input.linears[0].columns }
    public var innerSize: Int { down.columns }

    public enum Input: Sendable {
      case plain(Linear)
      case gated(gate: Linear, up: Linear)
      /// Both in one layer: the gate's rows come first, or alternate with the others.
      case fused(Linear, isInterleaved: Bool)

      public var linears: [Linear] {
        switch self {
        case .plain(let linear), .fused(let linear, _): [linear]
        case .gated(let gate, let up): [gate, up]
        }
      }
    }

    /// The function between the layers.
    public enum Gate: Sendable {
      case activation(Activation)
      /// xIELU with learned slopes, stored before softplus; beta is 0.5 and epsilon -1e-6 if they are not stored.
      case xielu(alphaP: Parameter, alphaN: Parameter, beta: Parameter?, epsilon: Parameter?)
      /// The clamped product of gpt-oss.
      case clamped(limit: Float, alpha: Float)
    }
  }

  /// A mixture of experts: a router chooses some for each token, and their weighted outputs are added.
  public struct Experts: Sendable {
    public var router: Router
    public var experts: [MLP]
    /// An expert that every token uses.
    public var shared: MLP?
    /// One row; its sigmoid multiplies the shared expert's output.
    public var sharedGate: Parameter?
    /// Norms of the experts' input and output, if there is an MLP beside them.
    public var inputNorm: Norm?
    public var outputNorm: Norm?
  }

  public struct Router: Sendable {
    public enum Scoring: Sendable, Hashable {
      /// Softmax over all experts, then the largest.
      case softmax
      /// The largest logits, then softmax over these.
      case softmaxOfChosen
      case sigmoid
    }

    /// `experts x hidden`.
    public var weight: Parameter
    public var bias: Parameter?
    public var chosen: Int
    public var scoring: Scoring
    /// Added to the scores for the choice only.
    public var correction: Parameter?
    /// Number of groups of experts, and how many of the best groups are considered.
    public var groups = 1
    public var chosenGroups = 1
    /// Whether a group's score is the sum of its two best experts, or its best expert.
    public var groupsByTwo = false
    /// Whether the chosen weights are divided by their sum plus `normalizer`.
    public var isNormalized = false
    public var normalizer: Float = 0
    public var scale: Float = 1
    /// One factor for each expert.
    public var expertScale: Parameter?
    /// Norm and scale of the router's own input.
    public var inputNorm: Norm?
    public var inputScale: Parameter?
    public var inputFactor: Float = 1
  }

  /// Gated delta rule (arXiv 2412.06464): each head has a state matrix, which the tokens update in order.
  public struct DeltaNet: Sendable {
    public var shape: DeltaRuleShape
    /// The layers that make queries, keys, values and z.
    public var input: Input
    /// Rows for decay and strength, one for each value head.
    public var decay: Parameter
    public var strength: Parameter
    /// Whether both are in one parameter: for each key head the rows of strength, then those of decay.
    public var isFused: Bool { decay == strength }
    /// Depthwise causal convolution over queries, keys and values, `channels x 1 x width`.
    public var convolution: Parameter
    public var logA: Parameter
    public var timeBias: Parameter
    public var norm: Norm
    public var output: Linear

    public enum Input: Sendable {
      /// All queries, all keys, all values; z in another layer.
      case separate(qkv: Linear, z: Linear)
      /// For each key head its query, key, values and z.
      case fused(Linear)
      public var linears: [Linear] {
        switch self {
        case .separate(let qkv, let z): [qkv, z]
        case .fused(let linear): [linear]
        }
      }
    }
  }

  /// A gated short convolution (LFM2): `out(c * conv(b * x))` for b, c, x from one layer.
  public struct ShortConvolution: Sendable {
    public var input: Linear
    /// `hidden x 1 x width`.
    public var kernel: Parameter
    public var bias: Parameter?
    public var output: Linear
  }
}
