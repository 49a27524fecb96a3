import EspalierCore
import EspalierKernels

/// The tensors of a checkpoint and how it computes: plain data that a ``Family`` makes from `config.json`.
///
/// Sites, matrices, expected tensors, memory and the forward pass all follow from it.
public struct Blueprint: Sendable {
  /// `model_type` of the configuration.
  public var modelType: String
  public var hiddenSize: Int
  public var vocabularySize: Int
  /// Length of the longest sequence that the model is made for, in tokens.
  public var maximumLength: Int
  public var embedding: Embedding
  public var blocks: [Block]
  public var ending: Ending

  /// Whether a token sees only itself and earlier tokens, so that the model predicts text.
  public var isCausal: Bool {
    blocks.allSatisfy { block in
      if case .attention(let attention) = block.mixer { attention.shape.mask != .all } else { true }
    }
  }

  /// A learned array that is never pruned: a norm, a bias, a table of positions, a router.
  public struct Parameter: Sendable, Hashable {
    public var name: String
    public var shape: [Int]
    /// Index along the first axis; nil for the whole tensor.
    public var part: Int?

    public init(_ name: String, _ shape: [Int], part: Int? = nil) {
      self.name = name
      self.shape = shape
      self.part = part
    }
  }

  /// A linear layer: a weight that can be pruned, and optionally a bias.
  public struct Linear: Sendable, Hashable {
    public var matrix: ModelOutline.Matrix
    public var bias: Parameter?
    /// Shape of the tensor that holds the weight.
    public var tensorShape: [Int]

    public var rows: Int { matrix.rows }
    public var columns: Int { matrix.columns }
  }

  public struct Norm: Sendable, Hashable {
    public var kind: NormWeights.Kind
    /// Number of columns that are normed together.
    public var width: Int
    public var epsilon: Float
    /// Learned scales, concatenated; ones if empty.
    public var scale: [Parameter] = []
    public var shift: [Parameter] = []
    /// Added to learned scales: 1 if the checkpoint stores the difference from 1.
    public var offset: Float = 0
  }

  /// Turns token ids or pixels into the hidden states that enter the first block.
  public struct Embedding: Sendable {
    /// `vocabulary x width`; nil for images.
    public var table: Parameter?
    public var scale: Float = 1
    /// Learned positions, `positions x hidden`, and the row for the first token.
    public var positions: (table: Parameter, first: Int)?
    /// A row that is added to every token.
    public var addition: Parameter?
    public var norm: Norm?
    /// Projects from the table's width to that of hidden states.
    public var projection: Linear?
    public var patches: Patches?
  }

  /// Images cut into square patches, after a class token.
  public struct Patches: Sendable {
    public var channels: Int
    public var imageSize: Int
    public var patchSize: Int
    /// The convolution as a matrix, `hidden x (channels * patch * patch)`.
    public var weight: Parameter
    public var bias: Parameter?
    public var classToken: Parameter
    public var count: Int { (imageSize / patchSize) * (imageSize / patchSize) }
  }

  public struct Block: Sendable {
    public var index: Int
    /// Prefix of the names of the block's tensors, including the dot.
    public var prefix: String
    /// Norm of the hidden states at the start of the block.
    public var enteringNorm: Norm?
    /// Norm of the mixer's input; nil if it sees the hidden states directly.
    public var mixerNorm: Norm?
    public var mixer: Mixer
    /// Norm of the mixer's output before it is added.
    public var mixerOutputNorm: Norm?
    /// Norm of the hidden states after the mixer's output is added.
    public var afterMixerNorm: Norm?
    /// Norm of the feed-forward's input. Without one, a parallel block's feed-forward shares the mixer's input.
    public var feedForwardNorm: Norm?
    public var feedForward: FeedForward
    public var feedForwardOutputNorm: Norm?
    public var afterFeedForwardNorm: Norm?
    /// Whether mixer and feed-forward read the same hidden states and are added together.
    public var isParallel = false
    /// Factor of outputs before they are added.
    public var residualScale: Float = 1
    /// Factor of the hidden states at the end of the block, one value.
    public var outputScale: Parameter?
  }

  public enum Mixer: Sendable {
    case attention(Attention)
    case deltaNet(DeltaNet)
    case convolution(ShortConvolution)

    /// The layer whose output is added to the hidden states.
    public var output: Linear {
      switch self {
      case .attention(let attention): attention.output
      case .deltaNet(let net): net.output
      case .convolution(let convolution): convolution.output
      }
    }
  }

  public enum FeedForward: Sendable {
    case dense(MLP)
    case experts(Experts)
    /// The sum of both, each with its own norms; the router sees the hidden states directly.
    case denseAndExperts(MLP, outputNorm: Norm, Experts)
  }

  /// Turns the hidden states after the last block into logits.
  public struct Ending: Sendable {
    public var norm: Norm?
    /// Projects from the width of hidden states to the head's input.
    public var projection: Linear?
    /// A layer with activation and norm before the head, in masked language models.
    public var transform: (linear: Linear, activation: Activation, norm: Norm)?
    /// `vocabulary x width`; nil if the model outputs hidden states.
    public var head: Parameter?
    public var headBias: Parameter?
    /// Whether the head reads only the first token of a sequence, as in a classifier.
    public var readsFirstToken = false
    /// Factor of the logits.
    public var scale: Float = 1
    /// Logits become `cap tanh(logit / cap)`; 0 for none.
    public var softCap: Float = 0
  }
}
