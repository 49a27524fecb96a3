import EspalierCore
import Testing

@testable import EspalierGeneration

@Suite struct SamplerTests {
  private func sampling(_ change: (inout Sampling) -> Void) -> Sampling {
    var sampling = Sampling()
    change(&sampling)
    return sampling
  }

  /// How often each token comes in so many draws.
  private func counts(_ sampling: Sampling, _ logits: [Float], draws: Int = 20_000) -> [Double] {
    var counts = [Double](repeating: 0, count: logits.count)
    var sampling = sampling
    for seed in 0..<UInt64(draws) {
      sampling.seed = seed
      var sampler = Sampler(sampling, prompt: [])
      counts[Int(sampler.next(logits))] += 1 / Double(draws)
    }
    return counts
  }

  @Test func theLikeliestTokenIsTheFirstOfTheLargest() {
    var sampler = Sampler(Sampling(), prompt: [])
    #expect(sampler.next([0, 3, -1, 3]) == 1)
  }

  @Test func drawsHaveTheProbabilitiesOfASoftmax() {
    let shares = counts(sampling { $0.temperature = 0.5 }, [0, 0.5, -1])
    let powers = [1, 2.718281828, 0.135335283]
    for (share, power) in zip(shares, powers) {
      // Four standard deviations.
      let expected = power / powers.reduce(0, +)
      #expect(abs(share - expected) < 4 * (expected * (1 - expected) / 20_000).squareRoot())
    }
  }

  /// Probabilities 0.5, 0.3, 0.15 and 0.05.
  @Test func unlikelyTokensAreLeftOut() {
    let logits: [Float] = [-0.6931472, -1.2039728, -1.89712, -2.9957323]
    func possible(_ change: (inout Sampling) -> Void) -> [Int] {
      let shares = counts(
        sampling {
          $0.temperature = 1
          change(&$0)
        }, logits, draws: 2000)
      return shares.indices.filter { shares[$0] > 0 }
    }
    #expect(possible { _ in } == [0, 1, 2, 3])
    #expect(possible { $0.topK = 2 } == [0, 1])
    #expect(possible { $0.topP = 0.79 } == [0, 1])
    #expect(possible { $0.topP = 0.81 } == [0, 1, 2])
    #expect(possible { $0.topP = 1e-9 } == [0])
    #expect(possible { $0.minP = 0.29 } == [0, 1, 2])
    #expect(possible { $0.minP = 0.31 } == [0, 1])
    #expect(
      possible {
        $0.topK = 3
        $0.topP = 0.8
      } == [0, 1])
  }

  @Test func tokensThatWereThereArePenalized() {
    var sampler = Sampler(sampling { $0.repetitionPenalty = 2 }, prompt: [0])
    #expect(sampler.next([3, 2, -1]) == 1)
    // Now both are: 1.5, 1 and -1.
    #expect(sampler.next([3, 2, -1]) == 0)
    var negative = Sampler(sampling { $0.repetitionPenalty = 2 }, prompt: [0])
    #expect(negative.next([-1, -1.5]) == 1)
  }

  @Test func theSameSeedGivesTheSameTokens() {
    let logits = (0..<50).map { Float($0 % 7) }
    func tokens(_ seed: UInt64) -> [Int32] {
      var sampler = Sampler(
        sampling {
          $0.temperature = 1
          $0.seed = seed
        }, prompt: [])
      return (0..<20).map { _ in sampler.next(logits) }
    }
    #expect(tokens(7) == tokens(7))
    #expect(tokens(7) != tokens(8))
  }

  @Test func optionsOutOfRangeAreRefused() {
    let wrong: [(inout Sampling) -> Void] = [
      { $0.temperature = -1 }, { $0.temperature = .nan }, { $0.topK = 0 }, { $0.topP = 0 }, { $0.topP = 1.5 },
      { $0.minP = -0.1 }, { $0.minP = 2 }, { $0.repetitionPenalty = 0 },
    ]
    for change in wrong {
      #expect(throws: EspalierError.self) { try sampling(change).check() }
    }
  }
}
