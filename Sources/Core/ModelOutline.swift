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

  /// A place between two products of a block from which its forward pass can go on, if the states there were kept.
  public enum Cut: Int, Sendable, Hashable, CaseIterable, Comparable {
    /// The hidden states that enter the block.
    case start
    /// The inputs of the mixer's output layer; the pass goes on with them and the hidden states that entered.
    case output
    /// The hidden states after the mixer.
    case feedForward
    /// The inputs of the last layer of an MLP; the pass goes on with them and the hidden states after the mixer.
    case down

    public static func < (left: Cut, right: Cut) -> Bool { left.rawValue < right.rawValue }
  }

  /// One input shared by several matrices, and so one Gram matrix.
  public struct Site: Sendable, Hashable {
    /// Short name, unique in its block: `attention`, `output`, `mlp`, `down`, `expert.3.mlp`, ...
    public let name: String
    public let matrices: [Matrix]
    /// The share of the tokens that reach the site: 1, but for experts to which tokens are routed.
    public let tokenShare: Double
    /// The last cut before the site.
    public let cut: Cut
    /// Sites between the cut and this one that its input passes, by index in the block.
    public let after: [Int]
    /// The factor of the output where it is added to the hidden states; nil if it is not added as it is.
    public let residualScale: Float?
    /// Whether the output is added to the hidden states without a norm before that, as it is or with the outputs of other sites.
    public let isAdded: Bool
    /// Whether the output, times ``residualScale``, is the whole difference between the hidden states at two cuts, so that it can be
    /// computed from them.
    public let isDifference: Bool
    /// Width of the input (d_in).
    public var columns: Int { matrices.first?.columns ?? 0 }

    public init(
      name: String, matrices: [Matrix], tokenShare: Double = 1, cut: Cut = .start, after: [Int] = [],
      residualScale: Float? = nil, isAdded: Bool = false, isDifference: Bool = false
    ) {
      self.name = name
      self.matrices = matrices
      self.tokenShare = tokenShare
      self.cut = cut
      self.after = after
      self.residualScale = residualScale
      self.isAdded = isAdded
      self.isDifference = isDifference
    }
  }

  /// One transformer block.
  public struct Block: Sendable, Hashable {
    public let index: Int
    /// Sites in the order in which the forward pass reaches them.
    public let sites: [Site]
    /// Every tensor of the block, by name, with the shape that `config.json` implies.
    public let tensors: [String: [Int]]
    /// Whether mixer and feed-forward read the same hidden states.
    public let isParallel: Bool
    public var matrices: [Matrix] { sites.flatMap(\.matrices) }

    public init(index: Int, sites: [Site], tensors: [String: [Int]], isParallel: Bool = false) {
      self.index = index
      self.sites = sites
      self.tensors = tensors
      self.isParallel = isParallel
    }

    /// The cuts that the block has, in the order of the pass.
    public var cuts: [Cut] {
      Cut.allCases.filter { cut in
        cut == .start || cut == .feedForward || sites.contains { $0.cut == cut }
      }
    }

    /// The cuts at which the states of a dense model that streams beside the pruned one are kept: all but the inputs of sites whose
    /// outputs are the difference of hidden states.
    public var denseCuts: [Cut] { cuts.filter { site(at: $0)?.isDifference != true } }

    /// The site whose inputs are the states at a cut; nil if they are hidden states.
    public func site(at cut: Cut) -> Site? {
      cut == .output || cut == .down ? sites.first { $0.cut == cut } : nil
    }

    /// The sites in the order in which they can be pruned if each is to see what was pruned before it, by index: those that see the
    /// same come together.
    public var sitesInTurn: [[Int]] {
      var depths = [Int](repeating: 0, count: sites.count)
      for (index, site) in sites.enumerated() {
        depths[index] = 1 + (site.after.map { depths[$0] }.max() ?? 0)
      }
      return Cut.allCases.flatMap { cut in
        let found = sites.indices.filter { sites[$0].cut == cut }
        return Set(found.map { depths[$0] }).sorted().map { depth in found.filter { depths[$0] == depth } }
      }
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
