import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels

/// Tokens whose last ones are scored.
struct ScoredSequence {
  let ids: [Int32]
  /// Index of the first token that is scored, at least 1.
  let first: Int
}

/// What a model, and the one that it is compared with, expected at the scored tokens of a sequence.
struct SequenceScores {
  /// Natural log-probability of each token, given the tokens before it.
  var logProbabilities: [Double] = []
  /// Whether each token is the one that the model finds most probable.
  var isFirstChoice: [Bool] = []
  /// Of the model that it is compared with; empty if there is none.
  var references: [Double] = []
  /// Kullback-Leibler divergence from that model, in nats, for each token.
  var divergences: [Double] = []
  /// Whether both models find the same token most probable.
  var agreements: [Bool] = []

  var sum: Double { logProbabilities.reduce(0, +) }
}

extension BlockStream {
  /// The scores of tokens by a causal model with a head.
  ///
  /// - Throws: a usage error if the model does not predict tokens, or predicts others than the one it is compared with.
  func score(_ sequences: [ScoredSequence]) throws -> [SequenceScores] {
    var scores = [SequenceScores](repeating: SequenceScores(), count: sequences.count)
    let heads = try members.map { member in
      let model = member.model
      guard model.blueprint.isCausal, let head = try model.head(TensorSource(model.checkpoint, on: device)) else {
        throw EspalierError.usage(
          "\(model.outline.modelType) does not predict the next token, so it has neither perplexity nor answers.",
          subject: model.checkpoint.folder)
      }
      return head
    }
    try run(sequences.map(\.ids)) { batch, states, tensors in
      // A state predicts the token after it. Only those before scored tokens go on.
      let rows = batch.sequences.enumerated().flatMap { offset, index in
        let sequence = sequences[index]
        return (sequence.first..<sequence.ids.count).map { Int32(offset * batch.length + $0 - 1) }
      }
      let targets = batch.sequences.flatMap { sequences[$0].ids[sequences[$0].first...] }
      var found = SequenceScores()
      let own = try states(0)
      let reference = members.count > 1 ? try states(1) : Matrix(rows: 0, columns: 0)
      for part in parts(of: rows.count, size: Self.batchTokens) {
        let (rows, targets) = (Array(rows[part]), Array(targets[part]))
        let input = try headInput(own, rows, 0, tensors)
        if members.count > 1 {
          let other = try headInput(reference, rows, 1, tensors)
          let (own, reference, divergences) = comparedPredictions(
            input, heads[0], reference: other, heads[1], targets: targets, on: device)
          found.append(own, targets)
          found.references += reference.logProbabilities
          found.divergences += divergences
          found.agreements += zip(own.choices, reference.choices).map(==)
        } else {
          found.append(predictions(input, heads[0], targets: targets, on: device), targets)
        }
      }
      var next = 0
      for index in batch.sequences {
        let count = sequences[index].ids.count - sequences[index].first
        scores[index] = found[next..<next + count]
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
    gatherRows(states, rows, into: &chosen)
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
      references: part(references), divergences: part(divergences), agreements: part(agreements))
  }
}
