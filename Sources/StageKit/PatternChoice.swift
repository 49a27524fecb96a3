import EspalierCore
import EspalierIO
import EspalierPipeline
import Synchronization

/// The pattern and the targets: parameters of every stage that makes masks.
public struct PatternChoice: Sendable {
  /// The pattern; nil if an allocation decides it.
  private let fixed: SparsityPattern?
  private let targets: TargetFilter
  /// The object of an allocation's artifact: a JSON object of the pattern of each module, such as `{"keep": 5, "of": 8}`.
  public static let allocation = "allocation.json"
  private let allocated = AllocatedPatterns()

  public init(_ parameters: inout Parameters) {
    let mistakes = parameters.problems.count
    let sparsity = parameters.numberOrWord(
      "sparsity", default: nil, in: 0...1, word: "allocated",
      "Share of every row that is pruned, or allocated if `- allocate` decides it, for N:M too; or give keep and of."
    )
    let keep = parameters.optionalInteger(
      "keep", in: 0...65_536, "N:M: weights that are kept of every group, such as 2 in 2:4.")
    let of = parameters.optionalInteger("of", in: 1...65_536, "N:M: weights in a group, such as 4 in 2:4.")
    // A value that cannot be read is one mistake, not also a missing one.
    fixed =
      parameters.problems.count > mistakes
      ? .rows(sparsity: 0) : Self.pattern(sparsity, keep, of, &parameters)
    targets = TargetFilter(&parameters)
  }

  private static func pattern(
    _ sparsity: NumberOrWord?, _ keep: Int?, _ of: Int?, _ parameters: inout Parameters
  )
    -> SparsityPattern?
  {
    switch (sparsity, keep, of) {
    case (.number(let sparsity), nil, nil):
      parameters.rejectNothing(pruned: sparsity)
      return .rows(sparsity: sparsity)
    case (.word, nil, nil): return nil
    case (nil, let keep?, let of?):
      if keep > of {
        parameters.reject("keep (\(keep)) must not be larger than of (\(of)).")
      } else {
        parameters.rejectNothing(pruned: 1 - Double(keep) / Double(of))
      }
      return .groups(keep: min(keep, of), of: of)
    case (nil, nil, nil): parameters.reject("give sparsity (as 0.6), or keep and of (as 2 and 4).")
    case (nil, _, _): parameters.reject("keep and of belong together, as keep: 2, of: 4.")
    default:
      parameters.reject(
        "give either sparsity or keep and of, not both; --set STAGE.sparsity= removes a value of the recipe."
      )
    }
    return .rows(sparsity: 0)
  }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { targets.contains(matrix.module) }

  /// What the stage reads to find its pattern.
  public var reads: Set<ArtifactKind> { fixed == nil ? [.allocation] : [] }

  /// The pattern before any work.
  ///
  /// - Parameter allocated: that of the allocation; nil if there is none.
  public func planned(after allocated: PlannedPattern?) -> PlannedPattern {
    fixed.map(PlannedPattern.known) ?? allocated ?? .allocatedRows
  }

  public func check(_ model: ModelOutline) throws {
    try targets.check(model)
    try fixed?.requireFit(model.matrices.filter(applies))
  }

  /// The pattern of the unit's matrix.
  ///
  /// - Throws: a usage error if the allocation leaves the matrix out.
  public func pattern(_ unit: UnitContext) throws -> SparsityPattern {
    if let fixed { return fixed }
    let path = try unit.input(.allocation, Self.allocation)
    guard let pattern = try allocated.pattern(of: unit.matrix?.module ?? "", path: path) else {
      throw EspalierError.usage(
        "the allocation leaves \(unit.matrix?.module ?? "the matrix") out; give `allocate` the same targets as this stage."
      )
    }
    return pattern
  }
}

extension Parameters {
  /// Rejects a share of 0, which leaves every weight, and of 1, which leaves none.
  public mutating func rejectNothing(pruned share: Double) {
    if share == 0 { reject("this would prune no weight; give a sparsity above 0, or keep less than of.") }
    if share == 1 { reject("this would prune every weight; give a sparsity below 1, or keep above 0.") }
  }
}

extension SparsityPattern {
  /// - Throws: a usage error that names the first of the matrices that cannot have this pattern.
  public func requireFit(_ matrices: [ModelOutline.Matrix]) throws {
    guard let matrix = matrices.first(where: { !fits(columns: $0.columns) }) else { return }
    throw EspalierError.usage(
      "\(matrix.module) has \(matrix.columns) inputs, which are not whole groups of \(span(ofColumns: matrix.columns)); choose another `of`, or put the matrix on the ignore list."
    )
  }
}

extension PlannedPattern {
  /// The pattern with `budget: matrix`.
  ///
  /// - Throws: a usage error for groups.
  public func requireAcrossRows() throws -> PlannedPattern {
    guard let pattern = acrossRows else {
      throw EspalierError.usage(
        "budget: matrix moves weights from row to row, which \(self) does not allow; use budget: row.")
    }
    return pattern
  }
}

/// The result of an allocation, read once for all matrices.
private final class AllocatedPatterns: Sendable {
  private let known = Mutex<(path: String, patterns: [String: SparsityPattern])?>(nil)

  /// The pattern of a matrix; nil if the allocation leaves the matrix out.
  ///
  /// - Parameter path: of an artifact, whose content never changes.
  func pattern(of module: String, path: String) throws -> SparsityPattern? {
    if let known = known.withLock({ $0 }), known.path == path { return known.patterns[module] }
    let members = try Folder.readJSON(path).object?.members ?? []
    let patterns = Dictionary(
      members.compactMap { member in SparsityPattern(json: member.value).map { (member.key, $0) } },
      uniquingKeysWith: { first, _ in first })
    known.withLock { $0 = (path, patterns) }
    return patterns[module]
  }
}
