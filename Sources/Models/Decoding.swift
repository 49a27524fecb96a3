import EspalierCore
import EspalierIO
import EspalierKernels

/// Texts that grow token by token: the blocks keep what they need of the tokens so far, so that each new one is computed alone.
///
/// The first tokens go through the blocks together, as in any forward pass. Logits are those of the forward pass over the whole text,
/// within rounding.
public final class Decoding {
  private let model: Model
  private let tensors: TensorSource
  private let head: OutputHead
  /// Texts that grow side by side, of equal length.
  public let sequences: Int
  /// Tokens of a text at most.
  public let capacity: Int
  /// The tokens of every text so far.
  private var ids: [[Int32]]
  private var caches: [BlockCache] = []

  /// Tokens of a text so far.
  public var length: Int { ids[0].count }

  /// - Parameters:
  ///   - sequences: texts that grow side by side.
  ///   - capacity: tokens of a text at most; keys and values take memory as the text grows.
  ///   - precision: that of the products with weights; the head's is f32.
  /// - Throws: a usage error if the model does not predict the next token; bad input if its tensors are damaged.
  public init(
    _ model: Model, sequences: Int = 1, capacity: Int, precision: Precision = .f32, on device: Device
  ) throws {
    self.model = model
    tensors = TensorSource(
      model.checkpoint, precision: precision, decodes: true, on: Device(awake: device))
    guard model.blueprint.isCausal, model.blueprint.embedding.table != nil,
      !model.blueprint.ending.readsFirstToken, let head = try model.head(tensors)
    else {
      throw EspalierError.usage(
        "\(model.blueprint.modelType) does not predict the next token, so it cannot write text.",
        subject: model.checkpoint.folder)
    }
    self.head = head
    self.sequences = sequences
    self.capacity = capacity
    ids = [[Int32]](repeating: [], count: sequences)
    begin()
  }

  private func begin() {
    caches = model.blueprint.blocks.map { BlockCache($0, sequences: sequences, capacity: capacity) }
  }

  /// Goes on by some tokens, as many for every text, one text after the other.
  ///
  /// - Parameters:
  ///   - all: whether the logits of all these tokens are wanted; for short texts only.
  ///   - progress: called after each block with its number.
  /// - Returns: the logits after the last token of each text, `sequences x vocabulary`; or of all, `next.count x vocabulary`.
  /// - Throws: bad input if an id is outside of the vocabulary or hidden states are not finite; an I/O error if the checkpoint cannot be
  ///   read.
  public func append(
    _ next: [Int32], all: Bool = false, progress: (Int) throws -> Void = { _ in }
  ) throws -> Matrix {
    var (next, count, past) = (next, next.count / sequences, length)
    precondition(count > 0 && next.count == count * sequences && past + count <= capacity)
    for sequence in 0..<sequences { ids[sequence] += next[sequence * count..<(sequence + 1) * count] }
    if past > 0, !model.blueprint.keepsFrequencies(from: past, to: length) {
      // The keys so far are turned by the frequencies of short texts: everything is computed again with those of long ones.
      begin()
      (next, count, past) = (ids.flatMap(\.self), length, 0)
    }
    let device = tensors.device
    var hidden = try model.embed(next, length: count, past: past, tensors: tensors)
    for block in model.blueprint.blocks.indices {
      try model.forward(
        block: block, hidden: &hidden, length: count, weights: tensors, cache: caches[block])
      try progress(block)
    }
    if !all, count > 1 {
      var last = device.matrix(unfilled: sequences, columns: hidden.columns)
      gatherRows(hidden, (0..<sequences).map { Int32(($0 + 1) * count - 1) }, into: &last, on: device)
      hidden = last
    }
    let logits = head.logits(try model.finish(hidden, tensors: tensors), decodes: true, on: device)
    try model.checkpoint.requireReadable()
    if logits.firstNotFinite() != nil {
      throw EspalierError.badInput(
        "the logits after token \(length) are not finite; the model overflows on this text.",
        subject: model.checkpoint.folder)
    }
    return logits
  }
}

extension Blueprint {
  /// Whether texts of both lengths turn keys by the same frequencies.
  fileprivate func keepsFrequencies(from length: Int, to longer: Int) -> Bool {
    blocks.allSatisfy { block in
      guard case .attention(let attention) = block.mixer, let rotary = attention.rotary else { return true }
      return rotary.keepsFrequencies(from: length, to: longer)
    }
  }
}
