import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels

/// Tokens that a model reads, and those that it should predict.
struct ScoredSequence: Hashable {
  let inputs: [Int32]
  /// Index of the input before the first target.
  let first: Int
  /// What follows that input and the next ones.
  let targets: [Int32]
}

/// What a model, and the one that it is compared with, expected at the scored tokens of a sequence.
struct SequenceScores {
  /// Natural log-probability of each token, given the tokens before it.
  var logProbabilities: [Double] = []
  /// Whether each token is the one that the model finds most probable.
  var isFirstChoice: [Bool] = []
  /// Of the model that it is compared with; empty if there is none.
  var references: [Double] = []
  var isFirstChoiceOfReference: [Bool] = []
  /// Kullback-Leibler divergence from that model, in nats, for each token.
  var divergences: [Double] = []
  /// Whether both models find the same token most probable.
  var agreements: [Bool] = []

  var sum: Double { logProbabilities.reduce(0, +) }

  /// What the other model expected.
  var ofReference: SequenceScores {
    SequenceScores(logProbabilities: references, isFirstChoice: isFirstChoiceOfReference)
  }
}

extension BlockStream {
  /// The scores of tokens by a causal model with a head.
  ///
  /// - Throws: a usage error if the model does not predict tokens, or predicts others than the one it is compared with.
  func score(_ sequences: [ScoredSequence]) throws -> [SequenceScores] {
    var scores = [SequenceScores](repeating: SequenceScores(), count: sequences.count)
    let heads = try members.map { member in
      let model = member.model
      guard model.blueprint.isCausal, let head = try model.head(TensorSource(model.checkpoint, on: device))
      else {
        throw EspalierError.usage(
          "\(model.outline.modelType) does not predict the next token, so it has neither perplexity nor answers.",
          subject: model.checkpoint.folder)
      }
      return head
    }
    // Choices of one token often follow the same inputs.
    let shared = Dictionary(grouping: sequences.indices) { sequences[$0].inputs }
      .sorted { $0.value[0] < $1.value[0] }
    try run(shared.map(\.key.count)) { batch, model, tensors in
      let ids = batch.sequences.flatMap { index in
        let ids = shared[index].key
        return ids + [Int32](repeating: ids[0], count: batch.length - ids.count)
      }
      return try model.embed(ids, length: batch.length, tensors: tensors)
    } end: { batch, states, tensors in
      // Only states before targets go on.
      let parts = batch.sequences.enumerated().flatMap { offset, index in
        shared[index].value.map { (index: $0, first: offset * batch.length + sequences[$0].first) }
      }
      let rows = parts.flatMap { part in
        sequences[part.index].targets.indices.map { Int32(part.first + $0) }
      }
      let targets = parts.flatMap { sequences[$0.index].targets }
      var found = SequenceScores()
      let own = try states(0)
      let reference = members.count > 1 ? try states(1) : Matrix(rows: 0, columns: 0)
      for part in EspalierCore.parts(of: rows.count, size: Self.batchTokens) {
        let (rows, targets) = (Array(rows[part]), Array(targets[part]))
        let input = try headInput(own, rows, 0, tensors)
        if members.count > 1 {
          let other = try headInput(reference, rows, 1, tensors)
          let (own, reference, divergences) = comparedPredictions(
            input, heads[0], reference: other, heads[1], targets: targets, on: device)
          found.append(own, targets)
          found.references += reference.logProbabilities
          found.isFirstChoiceOfReference += zip(reference.choices, targets).map(==)
          found.divergences += divergences
          found.agreements += zip(own.choices, reference.choices).map(==)
        } else {
          found.append(predictions(input, heads[0], targets: targets, on: device), targets)
        }
      }
      var next = 0
      for part in parts {
        let count = sequences[part.index].targets.count
        scores[part.index] = found[next..<next + count]
        next += count
      }
    }
    return scores
  }

  /// Some states after the last block, as the head reads them.
  private func headInput(
    _ states: borrowing Matrix, _ rows: [Int32], _ member: Int, _ tensors: [TensorSource]
  ) throws -> PackedMatrix {
    var chosen = device.matrix(unfilled: rows.count, columns: states.columns)
    gatherRows(states, rows, into: &chosen, on: device)
    var finished = try members[member].model.finish(chosen, tensors: tensors[member])
    return PackedMatrix(rounding: &finished, members[member].precision, on: device)
  }
}

extension SequenceScores {
  fileprivate mutating func append(_ predictions: Predictions, _ targets: [Int32]) {
    logProbabilities += predictions.logProbabilities
    isFirstChoice += zip(predictions.choices, targets).map(==)
  }

  /// The scores of some of the tokens.
  fileprivate subscript(range: Range<Int>) -> SequenceScores {
    func part<Value>(_ values: [Value]) -> [Value] { values.isEmpty ? [] : Array(values[range]) }
    return SequenceScores(
      logProbabilities: part(logProbabilities), isFirstChoice: part(isFirstChoice),
      references: part(references), isFirstChoiceOfReference: part(isFirstChoiceOfReference),
      divergences: part(divergences), agreements: part(agreements))
  }
}
