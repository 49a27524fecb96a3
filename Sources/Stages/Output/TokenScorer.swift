import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels

/// Computes log-probabilities of tokens block by block over all sequences, so that each weight is read once.
///
/// Sequences of similar length share a rectangular spill array. Shorter ones are padded on the right, which does not matter to causal
/// attention.
struct TokenScorer {
  let model: Model
  /// A folder for hidden states; removed at the end.
  let scratch: String
  let progress: (_ done: Int, _ total: Int) throws -> Void
  let device: Device

  private struct Group {
    let length: Int
    let members: [Int]
  }

  /// For each sequence, the natural log-probability of every token except the first, given the tokens before it.
  ///
  /// - Throws: bad input if an id is outside of the vocabulary or hidden states are not finite; an I/O error if the
  ///   checkpoint cannot be read.
  func score(_ sequences: [[Int32]]) throws -> [[Double]] {
    guard model.blueprint.isCausal, model.blueprint.ending.head != nil else {
      throw EspalierError.usage(
        "\(model.outline.modelType) does not predict the next token, so it has neither perplexity nor answers.",
        subject: model.checkpoint.folder)
    }
    try Folder.remove(scratch)
    try Folder.create(scratch)
    defer { try? Folder.remove(scratch) }
    let groups = groups(sequences)
    let tensors = TensorSource(model.checkpoint, on: device)
    let total = model.outline.blocks.count + 2
    for (index, group) in groups.enumerated() {
      try transform(group, from: nil, to: path(index, 0)) { batch, _ in
        try model.embed(
          Array(batch.map { padded(sequences[$0], group.length) }.joined()), length: group.length,
          tensors: tensors)
      }
    }
    try progress(1, total)
    for block in model.outline.blocks.indices {
      for (index, group) in groups.enumerated() {
        try transform(group, from: path(index, block), to: path(index, block + 1)) { _, hidden in
          var hidden = hidden
          try model.forward(
            block: block, hidden: &hidden, length: group.length, weights: tensors)
          return hidden
        }
        try Folder.remove(path(index, block))
      }
      try model.checkpoint.requireReadable()
      try progress(block + 2, total)
    }
    var scores = [[Double]](repeating: [], count: sequences.count)
    for (index, group) in groups.enumerated() {
      try finish(group, from: path(index, model.outline.blocks.count), sequences, tensors) { scores[$0] = $1 }
    }
    try model.checkpoint.requireReadable()
    try progress(total, total)
    return scores
  }

  private func groups(_ sequences: [[Int32]]) -> [Group] {
    let lengths = Set(sequences.map(\.count))
    let rounded = { (length: Int) in lengths.count == 1 ? length : (length + 15) / 16 * 16 }
    return Dictionary(grouping: sequences.indices.filter { sequences[$0].count > 1 }) {
      rounded(sequences[$0].count)
    }
    .map { Group(length: $0.key, members: $0.value) }.sorted { $0.length < $1.length }
  }

  private func padded(_ sequence: [Int32], _ length: Int) -> [Int32] {
    sequence + [Int32](repeating: sequence[0], count: length - sequence.count)
  }

  private func path(_ group: Int, _ block: Int) -> String { "\(scratch)/group-\(group)-block-\(block)" }

  private func batches(_ group: Group) -> [Range<Int>] {
    parts(of: group.members.count, size: max(1, 2048 / group.length))
  }

  private func transform(
    _ group: Group, from source: String?, to target: String,
    _ body: (_ batch: [Int], _ hidden: consuming Matrix) throws -> Matrix
  ) throws {
    let input = try source.map { try SpillArray(folder: $0) }
    var writer = try SpillWriter(
      folder: target, sequences: group.members.count, tokens: group.length, width: model.outline.hiddenSize,
      element: .f32, codec: .none)
    for batch in batches(group) {
      let hidden = try body(batch.map { group.members[$0] }, load(batch, input, group))
      if let (row, _) = hidden.firstNotFinite() {
        throw EspalierError.badInput(
          "hidden states are not finite at sequence \(group.members[batch.lowerBound + row / group.length]), token \(row % group.length); the model overflows on this text.",
          subject: model.checkpoint.folder)
      }
      try writer.append(hidden.elements.span)
    }
    _ = try writer.finish()
  }

  private func load(_ batch: Range<Int>, _ input: SpillArray?, _ group: Group) throws -> Matrix {
    guard let input else { return Matrix(rows: 0, columns: 0) }
    var hidden = device.matrix(unfilled: batch.count * group.length, columns: model.outline.hiddenSize)
    var span = hidden.elements.mutableSpan
    try input.read(batch, into: &span)
    input.release(batch)
    return hidden
  }

  private func finish(
    _ group: Group, from source: String, _ sequences: [[Int32]], _ tensors: borrowing TensorSource,
    _ store: (Int, [Double]) -> Void
  ) throws {
    let input = try SpillArray(folder: source)
    guard let head = try model.head(tensors) else {
      throw EspalierError.internalFault("a model without a head is scored.")
    }
    for batch in batches(group) {
      let states = try model.finish(load(batch, input, group), tensors: tensors)
      // The last row of a sequence has nothing to predict. It scores the first token, and the result is dropped.
      let targets = batch.flatMap { index in
        let ids = padded(sequences[group.members[index]], group.length)
        return Array(ids.dropFirst()) + [ids[0]]
      }
      let scores = logProbabilities(states, head: head, targets: targets, on: device)
      for (offset, index) in batch.enumerated() {
        let member = group.members[index]
        let start = offset * group.length
        store(member, Array(scores[start..<start + sequences[member].count - 1]))
      }
    }
  }
}
