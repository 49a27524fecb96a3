import EspalierCore
import EspalierKernels
import EspalierTestSupport
import Glibc
import Testing

@testable import EspalierModels

/// The choice of experts against a reference that ranks each expert by counting the better ones.
@Suite struct RoutingTests {
  typealias Router = Blueprint.Router

  @Test(arguments: [Router.Scoring.softmax, .softmaxOfChosen, .sigmoid], [false, true])
  func everyScoring(scoring: Router.Scoring, isNormalized: Bool) {
    var random = SeededRandom(seed: 11)
    for experts in [1, 2, 5, 8, 13] {
      for chosen in 1...experts {
        var router = router(experts, chosen, scoring)
        router.isNormalized = isNormalized
        router.normalizer = 0.25
        router.scale = 1.5
        expectSame(router, logits(&random, 17, experts))
      }
    }
  }

  @Test(arguments: [Router.Scoring.softmax, .sigmoid], [false, true])
  func groups(scoring: Router.Scoring, byTwo: Bool) {
    var random = SeededRandom(seed: 12)
    for (groups, size) in [(2, 2), (2, 5), (3, 4), (4, 1), (4, 3)] {
      for chosenGroups in 1...groups {
        for chosen in 1...size * chosenGroups {
          var router = router(groups * size, chosen, scoring)
          (router.groups, router.chosenGroups, router.groupsByTwo) = (groups, chosenGroups, byTwo)
          expectSame(router, logits(&random, 9, groups * size))
          expectSame(
            router, logits(&random, 9, groups * size), correction: random.normals(groups * size))
        }
      }
    }
  }

  @Test func correctionDecidesAndDoesNotWeigh() {
    let router = router(3, 1, .sigmoid)
    let routing = Routing(matrix([[2, 1, 0]]), router, correction: [0, 0, 9])
    #expect(routing.tokens == [[], [], [0]])
    #expect(routing.factors[2] == [0.5])
  }

  @Test func ofEqualScoresTheLowerIndexGoesFirst() {
    let routing = Routing(matrix([[1, 3, 3, 3], [0, 0, 0, 0]]), router(4, 2, .softmaxOfChosen))
    #expect(routing.tokens == [[1], [0, 1], [0], []])
    #expect(routing.factors == [[0.5], [0.5, 0.5], [0.5], []])
  }

  @Test func everyExpertHasAFactorOfItsOwn() {
    let routing = Routing(matrix([[0, 0]]), router(2, 2, .softmax), expertScale: [2, 6])
    #expect(routing.factors == [[1], [3]])
  }

  // MARK: - Reference

  private func router(_ experts: Int, _ chosen: Int, _ scoring: Router.Scoring) -> Router {
    Router(weight: .init("gate.weight", [experts, 8]), chosen: chosen, scoring: scoring)
  }

  /// Only a few different values, so that many are equal.
  private func logits(_ random: inout SeededRandom, _ tokens: Int, _ experts: Int) -> Matrix {
    Matrix(
      rows: tokens, columns: experts,
      (0..<tokens * experts).map { _ in 0.37 * Float(Int.random(in: 0..<7, using: &random)) - 0.9 })
  }

  private func matrix(_ rows: [[Float]]) -> Matrix {
    Matrix(rows: rows.count, columns: rows[0].count, rows.flatMap(\.self))
  }

  private func expectSame(_ router: Router, _ logits: borrowing Matrix, correction: [Float] = []) {
    let routing = Routing(logits, router, correction: correction)
    for token in 0..<logits.rows {
      let expected = factors((0..<logits.columns).map { Double(logits[token, $0]) }, router, correction)
      for expert in 0..<logits.columns {
        let place = routing.tokens[expert].firstIndex(of: Int32(token))
        let factor = place.map { Double(routing.factors[expert][$0]) }
        #expect((factor == nil) == (expected[expert] == nil), "\(router) token \(token) expert \(expert)")
        #expect(abs((factor ?? 0) - (expected[expert] ?? 0)) < 1e-5)
      }
    }
    #expect(routing.tokens.allSatisfy { $0 == $0.sorted() && Set($0).count == $0.count })
  }

  /// The factor of each expert; nil for those that are not chosen.
  private func factors(_ logits: [Double], _ router: Router, _ correction: [Float]) -> [Double?] {
    let powers = logits.map { exp($0) }
    let scores =
      switch router.scoring {
      case .softmax: powers.map { $0 / powers.reduce(0, +) }
      case .sigmoid: powers.map { $0 / (1 + $0) }
      case .softmaxOfChosen: powers
      }
    let ranks = scores.indices.map { scores[$0] + Double(correction.isEmpty ? 0 : correction[$0]) }
    let size = ranks.count / router.groups
    let groups = (0..<router.groups).map { group in
      let members = (0..<size).map { ranks[group * size + $0] }.sorted(by: >)
      return router.groupsByTwo && size > 1 ? members[0] + members[1] : members[0]
    }
    let live = ranks.indices.filter { isAmong(router.chosenGroups, $0 / size, groups, groups.indices) }
    let chosen = live.filter { isAmong(router.chosen, $0, ranks, live) }
    let sum = chosen.reduce(0) { $0 + scores[$1] }
    return scores.indices.map { expert in
      guard chosen.contains(expert) else { return nil }
      var factor = router.scoring == .softmaxOfChosen ? scores[expert] / sum : scores[expert]
      if router.isNormalized {
        factor /= (router.scoring == .softmaxOfChosen ? 1 : sum) + Double(router.normalizer)
      }
      return factor * Double(router.scale)
    }
  }

  /// Whether fewer than `count` others are better.
  private func isAmong(_ count: Int, _ one: Int, _ values: [Double], _ others: some Sequence<Int>) -> Bool {
    others.filter { values[$0] > values[one] || values[$0] == values[one] && $0 < one }.count < count
  }
}
