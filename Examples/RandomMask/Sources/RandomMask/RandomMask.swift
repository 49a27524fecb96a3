import EspalierStageKit

/// Makes masks that keep weights at random: what any method has to beat.
struct RandomMask: ScoreStage, StageDefinition {
  static let descriptor = StageDescriptor(
    name: "randomMask", summary: "Makes masks that keep weights at random.", revision: 1
  ) { .matrix(RandomMask(&$0)) }

  let choice: PatternChoice
  let readsInputs = false
  private let seed: Int

  init(_ parameters: inout Parameters) {
    seed = parameters.integer("seed", default: 0, in: 0...1_000_000, "Another seed, another mask.")
    choice = PatternChoice(&parameters)
  }

  func scores(of weight: LinearWeight, inputs: SiteFactor?) -> RowScores {
    { row, weights, scores in
      // Rows come in any order, on any thread: what is random depends on the seed and the row alone.
      var random = UInt64(seed) << 32 | UInt64(row)
      for column in scores.indices {
        random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        scores[column] = Float(random >> 40)
      }
    }
  }
}
