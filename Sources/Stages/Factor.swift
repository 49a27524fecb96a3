import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline

/// Condenses the inputs of every site into its Gram matrix, or its diagonal.
public struct Factor: SiteStage {
  public static let name = "factor"
  public static let summary =
    "Accumulates the Gram matrix of every site's inputs as they stream by, its diagonal, or a factor of low rank."
  public static let revision = 2

  enum Kind: String, CaseIterable {
    case gram
    case diagonal
    case svd
  }

  enum Keeping: String, CaseIterable {
    case auto
    case always
    case never
  }

  private let kind: Kind
  private let rank: Int
  private let energy: Double
  private let keep: Keeping

  public init(_ parameters: inout Parameters) {
    kind = parameters.choice(
      "kind", default: .gram,
      "The whole matrix; the diagonal alone, which is enough for Wanda and RIA; or svd, a factor of low rank and the exact diagonal, for widths whose matrix does not fit."
    )
    rank = parameters.integer(
      "rank", default: 1024, in: 1...1_048_576, "With svd, the most rows of the factor.")
    energy = parameters.number(
      "energy", default: 1, in: 0...1,
      "With svd, the share of the trace that the factor must hold; fewer rows than rank may be enough.")
    keep = parameters.choice(
      "keep", default: .auto, inKey: false,
      "Whether factors stay in the work folder; auto keeps them where capture.propagate is dense, so that other recipes find them."
    )
  }

  public var keeps: Bool? { keep == .auto ? nil : keep == .always }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    let columns = sizes.site?.columns ?? 0
    let bytes =
      switch kind {
      case .gram: columns * columns * 4
      case .diagonal: 0
      case .svd: GramAccumulator.lowRankByteCount(columns: columns, rank: rank)
      }
    return WorkingSet(factor: columns * 16 + (sizes.holdOut > 0 ? 2 : 1) * bytes)
  }

  private var form: GramForm {
    switch kind {
    case .gram: .whole
    case .diagonal: .diagonal
    case .svd: .lowRank(rank: rank, energy: energy)
    }
  }

  public func sink(_ unit: UnitContext) throws -> any SiteSink {
    guard let site = unit.site else { throw EspalierError.internalFault("a factor without a site.") }
    guard kind != .diagonal || unit.unit.holdOut == 0 else {
      throw EspalierError.usage(
        "holding sequences out needs Gram matrices, but the factor keeps only diagonals; set kind=gram.")
    }
    return FactorSink(
      columns: site.columns, form: form, holdOut: unit.unit.holdOut,
      place: "block \(unit.unit.block ?? 0), site \(site.name)", folder: unit.folder)
  }
}

private final class FactorSink: SiteSink {
  private var accumulator: GramAccumulator
  private var heldOut: GramAccumulator
  private let holdOut: Double
  private let place: String
  private let folder: String

  init(columns: Int, form: GramForm, holdOut: Double, place: String, folder: String) {
    accumulator = GramAccumulator(columns: columns, form: form)
    heldOut = GramAccumulator(columns: columns, form: holdOut > 0 ? form : .diagonal)
    self.holdOut = holdOut
    self.place = place
    self.folder = folder
  }

  func add(_ inputs: borrowing Matrix, sequences: Range<Int>) throws {
    guard holdOut > 0 else { return accumulator.add(inputs) }
    let length = inputs.rows / max(1, sequences.count)
    for (index, sequence) in sequences.enumerated() {
      let rows = index * length..<(index + 1) * length
      if isHeldOut(sequence) { heldOut.add(inputs, rows: rows) } else { accumulator.add(inputs, rows: rows) }
    }
  }

  /// Held-out sequences lie evenly among the others.
  private func isHeldOut(_ sequence: Int) -> Bool {
    Int(Double(sequence + 1) * holdOut) > Int(Double(sequence) * holdOut)
  }

  func finish() throws -> JSON {
    accumulator.finish()
    heldOut.finish()
    let apart = heldOut.tokens
    guard accumulator.tokens > 0, holdOut == 0 || apart > 0 else {
      throw EspalierError.usage(
        "holdOut \(holdOut) of the calibration sequences leaves none on one side; draw more samples or change holdOut."
      )
    }
    try SiteFactor.write(
      accumulator, heldOut: heldOut, place: place, to: folder + "/" + SiteFactor.object)
    return [
      "columns": .integer(accumulator.columns), "tokens": .integer(accumulator.tokens),
      "heldOutTokens": .integer(apart), "discardedEnergy": .number(accumulator.discardedEnergy),
    ]
  }
}
