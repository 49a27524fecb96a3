import EspalierCore

/// Groups the units of a graph by shape: units of one stage with the same sizes need the same. A model has few shapes, however many
/// units it has.
struct UnitShapes: Sendable {
  /// The shape of each unit, as an index into the examples.
  private(set) var shapes: [Int] = []
  /// For each shape, the first unit that has it.
  private(set) var examples: [Int] = []

  init() {}

  /// - Parameter bytes: gives the bytes of all tensors that a unit reads, and of one weight.
  init(_ graph: UnitGraph, _ model: ModelOutline, bytes: (Unit) -> (tensors: Int, weight: Int)) {
    var sites = Numbers<SiteShape>()
    var blocks = Numbers<[Int]>()
    var units = Numbers<UnitShape>()
    let siteNumbers = model.blocks.map { $0.sites.map { sites.number(of: SiteShape($0)) } }
    let blockNumbers = siteNumbers.map { blocks.number(of: $0) }
    shapes.reserveCapacity(graph.units.count)
    for (index, unit) in graph.units.enumerated() {
      let site = unit.streamedSite ?? unit.site
      let (tensorBytes, weightBytes) = bytes(unit)
      let shape = units.number(
        of: UnitShape(
          entry: unit.entry, task: .init(unit.task), block: unit.block.map { blockNumbers[$0] },
          site: unit.block.flatMap { block in site.map { siteNumbers[block][$0] } }, holdOut: unit.holdOut,
          pattern: unit.pattern, isDense: unit.isDense,
          diagonalIsEnough: unit.diagonalIsEnough, writesHidden: graph.writesHidden(unit),
          endsAtCut: graph.endsAtCut(unit, in: model), tensorBytes: tensorBytes, weightBytes: weightBytes))
      if shape == examples.count { examples.append(index) }
      shapes.append(shape)
    }
  }
}

/// Numbers values in the order in which they are first seen.
private struct Numbers<Value: Hashable> {
  private var known: [Value: Int] = [:]

  mutating func number(of value: Value) -> Int {
    if let number = known[value] { return number }
    known[value] = known.count
    return known.count - 1
  }
}

private struct MatrixShape: Hashable {
  let rows: Int
  let columns: Int
  let order: ModelOutline.Matrix.Order
  let isPart: Bool

  init(_ matrix: ModelOutline.Matrix) {
    (rows, columns, order, isPart) = (matrix.rows, matrix.columns, matrix.order, matrix.part != nil)
  }
}

private struct SiteShape: Hashable {
  let matrices: [MatrixShape]
  let tokenShare: Double
  let cut: ModelOutline.Cut
  let isAfterOthers: Bool
  let residualScale: Float?
  let isAdded: Bool
  let isDifference: Bool

  init(_ site: ModelOutline.Site) {
    (matrices, tokenShare) = (site.matrices.map(MatrixShape.init), site.tokenShare)
    (cut, isAfterOthers) = (site.cut, !site.after.isEmpty)
    (residualScale, isAdded, isDifference) = (site.residualScale, site.isAdded, site.isDifference)
  }
}

private struct UnitShape: Hashable {
  /// A task without names.
  enum Task: Hashable {
    case site(from: ModelOutline.Cut)
    case matrix(MatrixShape)
    case other(Unit.Task)

    init(_ task: Unit.Task) {
      switch task {
      case .site(_, let cut): self = .site(from: cut)
      case .matrix(let matrix): self = .matrix(MatrixShape(matrix))
      default: self = .other(task)
      }
    }
  }

  let entry: Int
  let task: Task
  let block: Int?
  let site: Int?
  let holdOut: Double
  let pattern: PlannedPattern?
  let isDense: Bool
  let diagonalIsEnough: Bool
  let writesHidden: Bool
  let endsAtCut: Bool
  let tensorBytes: Int
  let weightBytes: Int
}
