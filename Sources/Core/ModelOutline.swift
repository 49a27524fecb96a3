/// What a checkpoint consists of, as far as pruning is concerned: blocks, in order, with their sites and matrices.
///
/// It is plain data, made from `config.json` alone: plans are made from it before any tensor is read.
public struct ModelOutline: Sendable {
  /// One prunable linear weight: a tensor of its own, or one of the matrices that are stacked in a tensor.
  public struct Matrix: Sendable, Hashable {
    /// How the elements lie in the file.
    public enum Order: String, Sendable, Hashable {
      /// Outputs x inputs, as `torch.nn.Linear` stores them.
      case rows
      /// Inputs x outputs, as GPT-2's `Conv1D` stores them.
      case columns
    }

    /// Name of the module, unique in the model; `targets` and `ignore` match it.
    ///
    /// It is the tensor's name without `.weight`. A matrix of a stack is named as if it were stored alone:
    /// `...experts.3.down_proj`.
    public let module: String
    /// Name of the tensor in the checkpoint.
    public let tensor: String
    /// Outputs (d_out).
    public let rows: Int
    /// Inputs (d_in).
    public let columns: Int
    public let order: Order
    /// Index along the first axis of a tensor that stacks several matrices; nil if the tensor is the matrix.
    public let part: Int?

    /// - Parameter tensor: the tensor's name if it is not `module.weight`.
    public init(
      module: String, tensor: String? = nil, rows: Int, columns: Int, order: Order = .rows, part: Int? = nil
    ) {
      self.module = module
      self.tensor = tensor ?? module + ".weight"
      self.rows = rows
      self.columns = columns
      self.order = order
      self.part = part
    }

    public var parameters: Int { rows * columns }
  }

  /// One input shared by several matrices, and so one Gram matrix.
  public struct Site: Sendable, Hashable {
    /// Short name, unique in its block: `attention`, `output`, `mlp`, `down`, `expert.3.mlp`, ...
    public let name: String
    public let matrices: [Matrix]
    /// The share of the tokens that reach the site: 1, but for experts to which tokens are routed.
    public let tokenShare: Double
    /// Width of the input (d_in).
    public var columns: Int { matrices.first?.columns ?? 0 }

    public init(name: String, matrices: [Matrix], tokenShare: Double = 1) {
      self.name = name
      self.matrices = matrices
      self.tokenShare = tokenShare
    }
  }

  /// One transformer block.
  public struct Block: Sendable, Hashable {
    public let index: Int
    /// Sites in the order in which the forward pass reaches them.
    public let sites: [Site]
    /// Every tensor of the block, by name, with the shape that `config.json` implies.
    public let tensors: [String: [Int]]
    public var matrices: [Matrix] { sites.flatMap(\.matrices) }

    public init(index: Int, sites: [Site], tensors: [String: [Int]]) {
      self.index = index
      self.sites = sites
      self.tensors = tensors
    }
  }

  /// What an image model looks at.
  public struct Images: Sendable, Hashable {
    public let channels: Int
    /// Pixels of a side.
    public let side: Int
    /// Tokens that an image becomes.
    public let tokens: Int

    public init(channels: Int, side: Int, tokens: Int) {
      self.channels = channels
      self.side = side
      self.tokens = tokens
    }

    /// Values of an image.
    public var count: Int { channels * side * side }
  }

  /// `model_type` of the configuration.
  public let modelType: String
  public let blocks: [Block]
  /// Tensors outside the blocks, with their shapes.
  public let tensors: [String: [Int]]
  /// Tensors that decide the hidden states which enter the first block; of tied ones the file may hold any.
  public let embeddingTensors: [String]
  /// The images that the model reads; nil for a model of texts.
  public let images: Images?
  /// Width of a hidden state.
  public let hiddenSize: Int
  public let vocabularySize: Int
  /// Longest sequence that the model was made for, in tokens.
  public let maximumLength: Int
  /// The most values that a block holds for each token of a batch outside of the inner layers, the hidden state among them; see
  /// ``Batching``.
  public let activationWidth: Int
  /// The most values that it holds for each token in the inner layers, beside the hidden states of the batch.
  public let innerWidth: Int
  /// All matrices, block by block and site by site.
  public let matrices: [Matrix]
  /// The most inputs of a matrix.
  public let widestInput: Int

  public init(
    modelType: String, blocks: [Block], tensors: [String: [Int]], embeddingTensors: [String],
    images: Images? = nil,
    hiddenSize: Int,
    vocabularySize: Int,
    maximumLength: Int, activationWidth: Int, innerWidth: Int
  ) {
    self.modelType = modelType
    self.blocks = blocks
    self.tensors = tensors
    self.embeddingTensors = embeddingTensors
    self.images = images
    self.hiddenSize = hiddenSize
    self.vocabularySize = vocabularySize
    self.maximumLength = maximumLength
    self.activationWidth = activationWidth
    self.innerWidth = innerWidth
    matrices = blocks.flatMap(\.matrices)
    widestInput = matrices.reduce(0) { max($0, $1.columns) }
  }

  /// Bytes of the activations of a batch, of which so many tokens pass the inner layers at a time.
  public func activationBytes(tokens: Int, innerTokens: Int) -> Int {
    4 * max(tokens * activationWidth, tokens * hiddenSize + innerTokens * innerWidth)
  }
}
