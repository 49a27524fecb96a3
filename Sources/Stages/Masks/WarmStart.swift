import EspalierStageKit

/// Makes the first mask of every target matrix from the saliency of its weights.
public struct WarmStart: ScoreStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "warmStart",
    summary:
      "Makes the first mask of every matrix: the most salient weights of each row or group, with exact counts.",
    revision: 1
  ) { .matrix(WarmStart(&$0)) }

  enum Method: String, CaseIterable {
    case magnitude
    case wanda
    case ria
  }

  private let method: Method
  private let power: Double
  public let choice: PatternChoice

  init(_ parameters: inout Parameters) {
    method = parameters.choice(
      "method", default: .wanda,
      "Saliency of a weight: |W|; |W| times the norm of its input; or its share of row and column, times that norm to a power."
    )
    power = parameters.number("power", default: 0.5, in: 0...4, "With ria, the power of the input's norm.")
    choice = PatternChoice(&parameters)
  }

  public var readsInputs: Bool { method != .magnitude }

  public func scores(of weight: LinearWeight, inputs: SiteFactor?) -> RowScores {
    let saliency: Saliency =
      switch method {
      case .magnitude: .magnitude
      case .wanda: .wanda
      case .ria: .ria(power: power)
      }
    return saliency.scores(of: weight, diagonal: inputs?.diagonal ?? [])
  }
}
