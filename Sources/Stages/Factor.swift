import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline

/// Condenses the inputs of every site into its Gram matrix, or its diagonal.
public struct Factor: SiteStage {
  public static let name = "factor"
  public static let summary =
    "Accumulates the Gram matrix (or only its diagonal) of every site's inputs as they stream by."
  public static let revision = 1

  enum Kind: String, CaseIterable {
    case gram
    case diagonal
  }

  enum Keeping: String, CaseIterable {
    case auto
    case always
    case never
  }

  private let kind: Kind
  private let keep: Keeping

  public init(_ parameters: inout Parameters) {
    kind = parameters.choice(
      "kind", default: .gram,
      "The whole matrix, which swaps need, or the diagonal alone, which is enough for Wanda and RIA.")
    keep = parameters.choice(
      "keep", default: .auto, inKey: false,
      "Whether factors stay in the work folder; auto keeps them where capture.propagate is dense, so that other recipes find them."
    )
  }

  public var keeps: Bool? { keep == .auto ? nil : keep == .always }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    let columns = sizes.site?.columns ?? 0
    return WorkingSet(factor: columns * 8 + (kind == .gram ? columns * columns * 4 : 0))
  }

  public func sink(_ unit: UnitContext) throws -> any SiteSink {
    guard let site = unit.site else { throw EspalierError.internalFault("a factor without a site.") }
    return FactorSink(
      columns: site.columns, diagonalOnly: kind == .diagonal,
      place: "block \(unit.unit.block ?? 0), site \(site.name)", folder: unit.folder)
  }
}

private final class FactorSink: SiteSink {
  private var accumulator: GramAccumulator
  private let place: String
  private let folder: String

  init(columns: Int, diagonalOnly: Bool, place: String, folder: String) {
    accumulator = GramAccumulator(columns: columns, diagonalOnly: diagonalOnly)
    self.place = place
    self.folder = folder
  }

  func add(_ inputs: borrowing Matrix) throws { accumulator.add(inputs) }

  func finish() throws -> JSON {
    accumulator.finish()
    try SiteFactor.write(accumulator, place: place, to: folder + "/" + SiteFactor.object)
    return ["columns": .integer(accumulator.columns), "tokens": .integer(accumulator.tokens)]
  }
}

/// What is known of the inputs of a site: `factor.safetensors` with `diagonal` (F64) and, where it was kept, `gram` (F32).
struct SiteFactor {
  static let object = "factor.safetensors"

  /// Sums of squares of every input.
  let diagonal: [Double]
  let gram: GramMatrix?

  init(path: String) throws {
    let file = try SafetensorsFile(path: path)
    let diagonal = try file.tensor("diagonal", dtype: .f64)
    self.diagonal = try diagonal.doubles()
    gram =
      try file.header.tensors.contains { $0.name == "gram" }
      ? GramMatrix(file.tensor("gram", dtype: .f32)) : nil
    guard gram == nil || gram?.columns == self.diagonal.count else {
      throw EspalierError.badInput(
        "the Gram matrix and its diagonal have different sizes; the file is damaged.", subject: path)
    }
  }

  static func write(_ accumulator: borrowing GramAccumulator, place: String, to path: String) throws {
    let columns = accumulator.columns
    for column in 0..<columns where !accumulator.diagonal[column].isFinite {
      throw EspalierError.badInput(
        "the inputs of channel \(column) are not finite. The checkpoint overflows on this text; look for damaged weights.",
        subject: place)
    }
    var tensors: [(name: String, dtype: DType, shape: [Int])] = [("diagonal", .f64, [columns])]
    let hasGram = accumulator.hasGram
    if hasGram { tensors.append(("gram", .f32, [columns, columns])) }
    var writer = try SafetensorsWriter(
      path: path, tensors: tensors, metadata: [("tokens", String(accumulator.tokens))])
    try writer.append(accumulator.diagonal)
    if hasGram { try accumulator.append(to: &writer) }
    try writer.finish()
  }
}
