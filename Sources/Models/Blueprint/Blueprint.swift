import EspalierCore
import EspalierKernels

/// What a checkpoint consists of and how it computes: plain data, which a ``Family`` makes from `config.json`.
///
/// Sites, matrices, expected tensors, memory and the forward pass are all read from it.
public struct Blueprint: Sendable {
  /// `model_type` of the configuration.
  public var modelType: String
  public var hiddenSize: Int
  public var vocabularySize: Int
  /// Longest sequence that the model was made for, in tokens.
  public var maximumLength: Int
  public var embedding: Embedding
  public var blocks: [Block]
  public var ending: Ending

  /// Whether a token sees only those before it, so that the model predicts texts.
  public var isCausal: Bool {
    blocks.allSatisfy { block in
      if case .attention(let attention) = block.mixer { attention.shape.mask != .all } else { true }
    }
  }

  /// A learned array that is used as it is: a norm, a bias, a table of positions, a router.
  public struct Parameter: Sendable, Hashable {
    public var name: String
    public var shape: [Int]
    /// Index along the first axis, if only that part is meant.
    public var part: Int?

    public init(_ name: String, _ shape: [Int], part: Int? = nil) {
      self.name = name
      self.shape = shape
      self.part = part
    }
  }

  /// A linear layer: a weight that can be pruned, and perhaps a bias.
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
    /// Columns over which a mean is taken.
    public var width: Int
    public var epsilon: Float
    /// Learned scales, one after the other; ones if there are none.
    public var scale: [Parameter] = []
    public var shift: [Parameter] = []
    /// What is added to a learned scale: 1 if the checkpoint stores the difference from 1.
    public var offset: Float = 0
  }

  /// What turns token ids, or pixels, into the hidden states that enter the first block.
  public struct Embedding: Sendable {
    /// `vocabulary x width`; nil for images.
    public var table: Parameter?
    public var scale: Float = 1
    /// Learned positions, `positions x hidden`, and the row of the first token.
    public var positions: (table: Parameter, first: Int)?
    /// A row that is added to every token.
    public var addition: Parameter?
    public var norm: Norm?
    /// From the table's width to that of hidden states.
    public var projection: Linear?
    public var patches: Patches?
  }

  /// Images cut into squares, after a class token.
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
    /// What the names of the block's tensors begin with, with the dot.
    public var prefix: String
    /// Norm of the hidden states themselves, before anything else.
    public var enteringNorm: Norm?
    /// Norm of the mixer's input; nil if it sees the hidden states as they are.
    public var mixerNorm: Norm?
    public var mixer: Mixer
    /// Norm of the mixer's output, before it is added.
    public var mixerOutputNorm: Norm?
    /// Norm of the hidden states after the mixer was added.
    public var afterMixerNorm: Norm?
    /// Norm of the feed-forward's input. In a parallel block without one it sees what the mixer sees.
    public var feedForwardNorm: Norm?
    public var feedForward: FeedForward
    public var feedForwardOutputNorm: Norm?
    public var afterFeedForwardNorm: Norm?
    /// Mixer and feed-forward read the same hidden states and are added together.
    public var isParallel = false
    /// What outputs are multiplied with before they are added.
    public var residualScale: Float = 1
    /// What the hidden states are multiplied with at the end, one value.
    public var outputScale: Parameter?
  }

  public enum Mixer: Sendable {
    case attention(Attention)
    case deltaNet(DeltaNet)
    case convolution(ShortConvolution)
  }

  public enum FeedForward: Sendable {
    case dense(MLP)
    case experts(Experts)
    /// Both, added, each between norms of its own; the router sees the hidden states as they are.
    case denseAndExperts(MLP, outputNorm: Norm, Experts)
  }

  /// What turns the hidden states after the last block into logits.
  public struct Ending: Sendable {
    public var norm: Norm?
    /// From the width of hidden states to that of the head's rows.
    public var projection: Linear?
    /// A layer with activation and norm before the head, of masked language models.
    public var transform: (linear: Linear, activation: Activation, norm: Norm)?
    /// `vocabulary x width`; nil if hidden states are the model's output.
    public var head: Parameter?
    public var headBias: Parameter?
    /// Whether the head reads the first token of a sequence alone: a classifier.
    public var readsFirstToken = false
    /// What logits are multiplied with.
    public var scale: Float = 1
    /// Logits become `cap tanh(logit / cap)`; 0 for none.
    public var softCap: Float = 0
  }
}
