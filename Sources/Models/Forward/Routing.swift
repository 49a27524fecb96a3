import EspalierCore
import EspalierKernels
import Glibc

/// Which tokens of a batch go to which experts, and the factors of the experts' outputs.
struct Routing {
  /// The tokens of each expert, in ascending order.
  private(set) var tokens: [[Int32]]
  private(set) var factors: [[Float]]

  /// Chooses experts for every token.
  ///
  /// - Parameters:
  ///   - logits: `tokens x experts`.
  ///   - correction: added to the scores for the choice; one value for each expert, or empty.
  ///   - expertScale: multiplies the factors; one value for each expert, or empty.
  init(
    _ logits: borrowing Matrix, _ router: Blueprint.Router, correction: [Float] = [],
    expertScale: [Float] = []
  ) {
    let experts = logits.columns
    tokens = [[Int32]](repeating: [], count: experts)
    factors = [[Float]](repeating: [], count: experts)
    for token in 0..<logits.rows {
      let row = (0..<experts).map { logits[token, $0] }
      for (expert, factor) in Self.choice(row, router, correction) {
        tokens[expert].append(Int32(token))
        factors[expert].append(factor * (expertScale.isEmpty ? 1 : expertScale[expert]))
      }
    }
  }

  private static func choice(
    _ logits: [Float], _ router: Blueprint.Router, _ correction: [Float]
  ) -> [(expert: Int, factor: Float)] {
    let scores: [Float] =
      switch router.scoring {
      case .softmax: softmax(logits)
      case .sigmoid: logits.map { 1 / (1 + expf(-$0)) }
      case .softmaxOfChosen: logits
      }
    var rank = correction.isEmpty ? scores : zip(scores, correction).map { $0 + $1 }
    if router.groups > 1 { leaveOutGroups(&rank, router) }
    let chosen = largest(router.chosen, of: rank)
    var factors = chosen.map { scores[$0] }
    if router.scoring == .softmaxOfChosen { factors = softmax(factors) }
    if router.isNormalized {
      let sum = factors.reduce(0, +) + router.normalizer
      factors = factors.map { $0 / sum }
    }
    return zip(chosen, factors).map { ($0, $1 * router.scale) }
  }

  /// If scores are equal, the lower index comes first.
  private static func largest(_ count: Int, of scores: [Float]) -> [Int] {
    Array(scores.indices.sorted { (scores[$0], $1) > (scores[$1], $0) }.prefix(count))
  }

  private static func leaveOutGroups(_ rank: inout [Float], _ router: Blueprint.Router) {
    let size = rank.count / router.groups
    let best = (0..<router.groups).map { group in
      rank[group * size..<(group + 1) * size].sorted(by: >).prefix(router.groupsByTwo ? 2 : 1).reduce(0, +)
    }
    let kept = Set(largest(router.chosenGroups, of: best))
    for expert in rank.indices where !kept.contains(expert / size) { rank[expert] = -.infinity }
  }

  private static func softmax(_ values: [Float]) -> [Float] {
    let top = values.max() ?? 0
    let powers = values.map { expf($0 - top) }
    let sum = powers.reduce(0, +)
    return powers.map { $0 / sum }
  }
}
