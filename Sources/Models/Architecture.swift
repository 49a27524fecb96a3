import EspalierCore
import EspalierIO
import EspalierKernels

/// A family of transformers: what its checkpoints consist of, and the forward pass of one block.
///
/// A value of it is made from `config.json` and holds no tensors; weights come from the outside, one block at a time. To add a
/// family, write one file and register it in ``Architectures``.
public protocol Architecture: Sendable {
  /// The `model_type` values that it computes.
  static var modelTypes: [String] { get }

  /// - Throws: bad input that names the key, also for a setting that it cannot compute with.
  init(configuration: JSON) throws

  var outline: ModelOutline { get }

  /// Hidden states that enter the first block: `ids.count x hiddenSize`; sequences of `length` tokens follow each other.
  func embed(_ ids: [Int32], length: Int, tensors: borrowing TensorSource) throws -> Matrix

  /// Replaces the hidden states of whole sequences by those after the block.
  ///
  /// - Parameters:
  ///   - hidden: `tokens x hiddenSize`, sequences of `length` tokens following each other.
  ///   - last: the last site that is wanted: the pass may end there, and `hidden` is then of no use; nil for the whole block.
  ///   - weights: gives the block's tensors.
  ///   - observe: called with the index of a site in the outline, the inputs of some sequences, `tokens x columns`, and which of those
  ///     in `hidden` they are, as the pass reaches them; for each site in order.
  func forward(
    block: Int, hidden: inout Matrix, length: Int, through last: Int?, weights: borrowing TensorSource,
    observe: (_ site: Int, _ inputs: borrowing Matrix, _ sequences: Range<Int>) throws -> Void
  ) throws

  /// The last norm and the weight of the head: states `tokens x hiddenSize` in, normed states out.
  func finish(_ hidden: consuming Matrix, tensors: borrowing TensorSource) throws -> Matrix

  /// The head, `vocabulary x hiddenSize`.
  func head(_ tensors: borrowing TensorSource) throws -> LinearWeight
}

extension Architecture {
  /// Replaces the hidden states by those after the block, for those who do not look at its sites.
  public func forward(block: Int, hidden: inout Matrix, length: Int, weights: borrowing TensorSource) throws {
    try forward(block: block, hidden: &hidden, length: length, through: nil, weights: weights) { _, _, _ in }
  }
}

/// Tensors of a checkpoint by name, pruned where they are.
public struct TensorSource: ~Copyable, Sendable {
  public let checkpoint: Checkpoint
  /// Pruned matrices by tensor name; the others are dense.
  public let pruned: [String: PrunedMatrix]
  /// How products with them are computed.
  public let precision: Precision
  /// Whether the pages of weights stay in memory between products.
  public let keepsPages: Bool

  public init(
    _ checkpoint: Checkpoint, pruned: [String: PrunedMatrix] = [:], precision: Precision = .f32,
    keepsPages: Bool = false
  ) {
    self.checkpoint = checkpoint
    self.pruned = pruned
    self.precision = precision
    self.keepsPages = keepsPages
  }

  public func has(_ name: String) -> Bool { checkpoint.tensors[name] != nil }

  /// A linear weight, as the pipeline left it.
  public func linear(_ name: String, rows: Int, columns: Int) throws -> LinearWeight {
    try LinearWeight(
      checkpoint.tensor(name, shape: [rows, columns]), pruned: pruned[name], keepsPages: keepsPages)
  }

  /// A vector as f32, in one row.
  public func vector(_ name: String, count: Int) throws -> Matrix {
    try checkpoint.tensor(name, shape: [count]).floats()
  }
}

/// The families that can be computed, by `model_type`.
public enum Architectures {
  /// One line for each family.
  private static let all: [any Architecture.Type] = [
    Llama.self
  ]

  public static var modelTypes: [String] { all.flatMap { $0.modelTypes }.sorted() }

  /// The architecture of a checkpoint.
  ///
  /// - Throws: bad input where `model_type` is unknown, or the configuration cannot be computed with.
  public static func make(_ checkpoint: Checkpoint) throws -> any Architecture {
    try about(checkpoint.folder + "/config.json") { try make(configuration: checkpoint.configuration) }
  }

  /// The architecture that the content of `config.json` describes.
  static func make(configuration: JSON) throws -> any Architecture {
    guard let modelType = configuration["model_type"]?.string else {
      throw EspalierError.badInput("model_type is missing.")
    }
    guard let type = all.first(where: { $0.modelTypes.contains(modelType) }) else {
      throw EspalierError.badInput(
        "model_type \"\(modelType.prefix(40))\" is not known; this version computes \(modelTypes.joined(separator: ", "))."
      )
    }
    return try type.init(configuration: configuration)
  }

  /// Checks, from headers alone, that every tensor which the outline needs is there with its shape.
  public static func check(_ outline: ModelOutline, in checkpoint: Checkpoint) throws {
    for tensors in [outline.tensors] + outline.blocks.map(\.tensors) {
      for (name, shape) in tensors.sorted(by: { $0.key < $1.key }) {
        _ = try checkpoint.tensor(name, shape: shape)
      }
    }
  }
}
