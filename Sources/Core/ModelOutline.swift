/// What a checkpoint consists of, as far as pruning is concerned: blocks, in order, with their sites and matrices.
///
/// It is plain data, made from `config.json` alone: plans are made from it before any tensor is read.
public struct ModelOutline: Sendable {
  /// One prunable linear weight.
  public struct Matrix: Sendable, Hashable {
    /// Name of the tensor in the checkpoint.
    public let tensor: String
    /// Name of the module, the tensor's name without `.weight`; `targets` and `ignore` match it.
    public let module: String
    /// Outputs (d_out).
    public let rows: Int
    /// Inputs (d_in).
    public let columns: Int

    public init(module: String, rows: Int, columns: Int) {
      tensor = module + ".weight"
      self.module = module
      self.rows = rows
      self.columns = columns
    }
  }

  /// One input shared by several matrices, and so one Gram matrix.
  public struct Site: Sendable, Hashable {
    /// Short name, unique in its block: `attention`, `output`, `mlp`, `down`, ...
    public let name: String
    public let matrices: [Matrix]
    /// Width of the input (d_in).
    public var columns: Int { matrices.first?.columns ?? 0 }

    public init(name: String, matrices: [Matrix]) {
      self.name = name
      self.matrices = matrices
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

  /// `model_type` of the configuration.
  public let modelType: String
  public let blocks: [Block]
  /// Tensors outside the blocks, with their shapes.
  public let tensors: [String: [Int]]
  /// Tensors that decide the hidden states which enter the first block; of tied ones the file may hold any.
  public let embeddingTensors: [String]
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

  public init(
    modelType: String, blocks: [Block], tensors: [String: [Int]], embeddingTensors: [String], hiddenSize: Int,
    vocabularySize: Int,
    maximumLength: Int, activationWidth: Int, innerWidth: Int
  ) {
    self.modelType = modelType
    self.blocks = blocks
    self.tensors = tensors
    self.embeddingTensors = embeddingTensors
    self.hiddenSize = hiddenSize
    self.vocabularySize = vocabularySize
    self.maximumLength = maximumLength
    self.activationWidth = activationWidth
    self.innerWidth = innerWidth
  }

  /// Bytes of the activations of a batch, of which so many tokens pass the inner layers at a time.
  public func activationBytes(tokens: Int, innerTokens: Int) -> Int {
    4 * max(tokens * activationWidth, tokens * hiddenSize + innerTokens * innerWidth)
  }

  public var matrices: [Matrix] { blocks.flatMap(\.matrices) }
}
