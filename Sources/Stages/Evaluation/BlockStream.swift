import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels

/// Takes sequences of tokens or images through all blocks of a model, or of two models in step. Each block's weights are read once for
/// all sequences.
///
/// Sequences of similar length share a group. Shorter ones are padded on the right, which does not matter to causal attention; of a
/// model that looks both ways, only sequences of one length share a group.
struct BlockStream {
  /// A model with the precision of its products.
  struct Member {
    let model: Model
    let precision: Precision
  }

  /// The sequences that pass a block together.
  struct Batch {
    /// Indices of the sequences; they follow each other in the rows of states.
    let sequences: [Int]
    /// Tokens of each, with the padding.
    let length: Int
  }

  let members: [Member]
  /// A folder for hidden states that are too many for ``memory``.
  let scratch: String
  /// Bytes of hidden states that are held in memory; if there are more, all of them go to files.
  let memory: Int
  let progress: (_ done: Int, _ total: Int) throws -> Void
  let device: Device

  /// Tokens that pass a block together: enough that packing a weight costs little beside its product.
  static let batchTokens = 2048

  /// - Parameters:
  ///   - lengths: tokens of each sequence.
  ///   - embed: gives the states of a batch before the first block.
  ///   - end: called for each batch, once, with a function that gives the states of a model after its last block, `tokens x
  ///     hiddenSize`, and with sources of the models' tensors.
  /// - Throws: bad input if hidden states are not finite; an I/O error if a checkpoint cannot be read.
  func run(
    _ lengths: [Int], embed: (_ batch: Batch, _ model: Model, _ tensors: TensorSource) throws -> Matrix,
    end: (_ batch: Batch, _ states: (_ member: Int) throws -> Matrix, _ tensors: [TensorSource]) throws ->
      Void
  ) throws {
    let batches = batches(lengths)
    var meter = Meter(members, batches, progress)
    let stores = try stores(batches)
    let tensors = members.map { TensorSource($0.model.checkpoint, precision: $0.precision, on: device) }
    for (member, part) in members.enumerated() {
      for (index, batch) in batches.enumerated() {
        let states = try embed(batch, part.model, tensors[member])
        try requireFinite(states, batch, "the embedding", part.model)
        try stores[member].put(states, at: index)
        try meter.add(0)
      }
    }
    for block in members[0].model.outline.blocks.indices {
      for (part, store) in zip(members, stores) { try pass(part, block, batches, store, &meter) }
    }
    for (index, batch) in batches.enumerated() {
      try end(batch, { try stores[$0].take(index) }, tensors)
      try meter.addHead(batch)
    }
    for part in members { try part.model.checkpoint.requireReadable() }
  }

  private func pass(
    _ part: Member, _ block: Int, _ batches: [Batch], _ store: StateStore, _ meter: inout Meter
  ) throws {
    let checkpoint = part.model.checkpoint
    let stored = try part.model.outline.blocks[block].tensors.sorted { $0.key < $1.key }.map {
      try checkpoint.tensor($0.key, shape: $0.value)
    }
    // Otherwise mapped pages of blocks that are done would fill the memory.
    defer { for tensor in stored { tensor.release() } }
    let bytes = stored.reduce(0) { $0 + $1.byteCount }
    let weights = TensorSource(
      checkpoint, precision: part.precision, keepsPages: bytes <= Capture.keptBytes, on: device)
    for (index, batch) in batches.enumerated() {
      var states = try store.take(index)
      try part.model.forward(block: block, hidden: &states, length: batch.length, weights: weights)
      try requireFinite(states, batch, "block \(block)", part.model)
      try store.put(states, at: index)
      try meter.add(batch, block, part.model)
    }
    try checkpoint.requireReadable()
  }

  private func requireFinite(_ states: borrowing Matrix, _ batch: Batch, _ place: String, _ model: Model)
    throws
  {
    guard let (row, _) = states.firstNotFinite() else { return }
    throw EspalierError.badInput(
      "the hidden states after \(place) are not finite (sequence \(batch.sequences[row / batch.length]), token \(row % batch.length)); the model overflows on this text.",
      subject: model.checkpoint.folder)
  }

  // MARK: - Batches

  /// Batches of sequences of similar length, the shortest first.
  private func batches(_ lengths: [Int]) -> [Batch] {
    let isPadded = members[0].model.blueprint.isCausal && Set(lengths).count > 1
    let groups = Dictionary(grouping: lengths.indices) {
      isPadded ? (lengths[$0] + 15) / 16 * 16 : lengths[$0]
    }
    return groups.sorted { $0.key < $1.key }.flatMap { length, group in
      parts(of: group.count, size: max(1, Self.batchTokens / length)).map {
        Batch(sequences: Array(group[$0]), length: length)
      }
    }
  }

  /// The states of each model.
  private func stores(_ batches: [Batch]) throws -> [StateStore] {
    let rows = batches.map { $0.sequences.count * $0.length }
    let widths = members.map(\.model.outline.hiddenSize)
    let isInMemory = rows.reduce(0, +) * widths.reduce(0, +) * 4 <= memory
    return try widths.enumerated().map { member, width in
      try StateStore(
        rows: rows, width: width, path: isInMemory ? nil : "\(scratch)/states-\(member)", on: device)
    }
  }

  /// Counts what is done in products.
  private struct Meter {
    private let total: Int
    private var done = 0
    private let heads: Int
    private let progress: (Int, Int) throws -> Void

    init(_ members: [Member], _ batches: [Batch], _ progress: @escaping (Int, Int) throws -> Void) {
      self.progress = progress
      let tokens = batches.reduce(0) { $0 + Self.tokens($1) }
      heads = members.reduce(0) { $0 + $1.model.outline.vocabularySize * $1.model.outline.hiddenSize }
      let blocks = members.reduce(0) { sum, part in
        sum + part.model.outline.blocks.reduce(0) { $0 + Self.weights($1) }
      }
      total = tokens.multipliedReportingOverflow(by: heads + blocks).partialValue
    }

    mutating func add(_ batch: Batch, _ block: Int, _ model: Model) throws {
      try add(Self.tokens(batch) * Self.weights(model.outline.blocks[block]))
    }

    mutating func addHead(_ batch: Batch) throws { try add(Self.tokens(batch) * heads) }

    mutating func add(_ products: Int) throws {
      done += products
      try progress(done, total)
    }

    private static func tokens(_ batch: Batch) -> Int { batch.sequences.count * batch.length }

    /// Weights of a block that a token meets.
    private static func weights(_ block: ModelOutline.Block) -> Int {
      Int(
        block.sites.reduce(0.0) { $0 + $1.tokenShare * Double($1.matrices.reduce(0) { $0 + $1.parameters }) })
    }
  }
}
