import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// Distributes a sparsity over the matrices of a model, before the first mask is made.
public struct Allocate: AllocationStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "allocate",
    summary:
      "Decides how sparse every matrix becomes: all the same, by the outliers of each block, or by measured errors, with fitted weights or without. For N:M too.",
    revision: 4
  ) { .allocation(Allocate(&$0)) }

  private static let measurementObject = "measurement.safetensors"

  enum Method: String, CaseIterable {
    case uniform
    case owl
    case error
    case refit
  }

  /// How the matrices of a block share the block's sparsity.
  enum Within: String, CaseIterable {
    case none
    case error
    case refit
  }

  /// The errors that are measured.
  private enum Errors {
    case none
    case masks
    /// After the kept weights are fitted.
    case fits
  }

  private let method: Method
  private let within: Within
  private let sparsity: Double
  /// Weights in a group of N:M; nil for rows.
  private let of: Int?
  private let range: Double
  private let outlier: Double
  private let targets: TargetFilter

  init(_ parameters: inout Parameters) {
    method = parameters.choice(
      "method", default: .owl,
      "uniform: the same for all; owl: blocks with more outliers keep more weights; error: the smallest sum of relative output errors; refit: the same after the kept weights are fitted, for stages that fit them (after LSA, ICLR 2026)."
    )
    within = parameters.choice(
      "within", default: .none,
      "With owl, how the matrices of a block share what is pruned of it. none: all the same; error, refit: as the methods of these names do."
    )
    sparsity = parameters.number(
      "sparsity", default: nil, in: 0...1, "Share of all target weights that is pruned.")
    of = parameters.optionalInteger(
      "of", in: 2...65_536,
      "N:M: weights in a group, of which every matrix keeps a whole number. With sparsity 0.5 and 8 some matrices become 3:8 and others 5:8, 4:8 on average."
    )
    range = parameters.number(
      "range", default: 0.08, in: 0...0.5,
      "How far the sparsity of a matrix may be from the mean; for N:M at least one weight of a group. With within: from the block's."
    )
    outlier = parameters.number(
      "outlier", default: 5, in: 1...1000,
      "With owl: a weight is an outlier if its saliency is this many times the mean of its block.")
    targets = TargetFilter(&parameters)
    if parameters.problems.isEmpty {
      parameters.rejectNothing(pruned: sparsity)
      rejectNoGroup(&parameters)
    }
    if within != .none, method != .owl { parameters.reject("within works with method: owl only.") }
    if within != .none, of != nil { parameters.reject("within works with rows only, without `of`.") }
  }

  private var errors: Errors {
    if method == .error || within == .error { return .masks }
    return method == .refit || within == .refit ? .fits : .none
  }

  /// Rejects a sparsity that no groups of this size have.
  private func rejectNoGroup(_ parameters: inout Parameters) {
    guard let of else { return }
    let pruned = sparsity * Double(of)
    if pruned > Double(of - 1) {
      parameters.reject(
        "sparsity \(sparsity) leaves less than one of every \(of) weights; give a larger `of`.")
    } else if method == .uniform, abs(pruned - pruned.rounded()) > 1e-9 {
      parameters.reject(
        "sparsity \(sparsity) is no whole number of every \(of) weights, so not all matrices can have the same; choose another method."
      )
    }
  }

  public var needsGram: Bool { errors != .none }
  public var pattern: PlannedPattern { of.map(PlannedPattern.allocatedGroups) ?? .allocatedRows }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { targets.contains(matrix.module) }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws {
    try targets.check(model)
    guard let of else { return }
    try SparsityPattern.groups(keep: 1, of: of).requireFit(model.matrices.filter(applies))
  }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet(rows: 2 * OutlierCensus.workingSet(columns: 0)) }
    switch errors {
    case .none: return WorkingSet(weightPages: sizes.tensorBytes, rows: censusBytes(matrix))
    case .masks: return sizes.withLossFactor(besideFactor(sizes))
    case .fits:
      return WorkingSet(
        weightPages: sizes.tensorBytes, gramPages: sizes.factorBytes,
        rows: censusBytes(matrix) + 2 * matrix.rows * Mask.rowBytes(matrix.columns)
          + max(
            scoringByteCount(rows: matrix.rows, columns: matrix.columns, threads: sizes.threads),
            FittedError.workingSet(
              rows: matrix.rows, columns: matrix.columns, rank: sizes.factorRank, threads: sizes.threads)))
    }
  }

  /// Bytes of counting outliers, which are kept while errors are measured.
  private func censusBytes(_ matrix: ModelOutline.Matrix) -> Int {
    method == .owl || errors == .none ? 2 * OutlierCensus.workingSet(columns: matrix.columns) : 0
  }

  private func besideFactor(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    return WorkingSet(
      weightPages: sizes.tensorBytes,
      rows: censusBytes(matrix) + 2 * matrix.rows * Mask.rowBytes(matrix.columns)
        + max(
          scoringByteCount(rows: matrix.rows, columns: matrix.columns, threads: sizes.threads),
          Loss.workingSet(
            rows: matrix.rows, columns: matrix.columns, rank: sizes.factorRank, threads: sizes.threads)))
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    var work = Work(memoryBytes: matrix.weights * (method == .owl ? 32 : 4))
    switch errors {
    case .none: break
    case .masks:
      let points = Double(candidates.count)
      work.add(
        Work(
          operations: (points + 1) * matrix.gramOperations / 2, memoryBytes: points * matrix.selectionBytes))
    case .fits:
      let operations = candidates.reduce(0) {
        $0
          + FittedError.operations(
            rows: matrix.rows, columns: matrix.columns, kept: $1.pattern.kept(ofColumns: matrix.columns))
      }
      work.add(Work(operations: operations, memoryBytes: Double(candidates.count) * matrix.selectionBytes))
    }
    return work
  }

  // MARK: - One matrix

  public func measure(_ unit: UnitContext) throws {
    let weight = try unit.weight()
    defer { weight.tensor.release() }
    var outliers: [Double] = []
    if method == .owl {
      let census = OutlierCensus(weight, diagonal: try unit.factor().diagonal)
      outliers = [census.sum] + census.counts.map(Double.init)
    }
    var errors: [Double] = []
    switch self.errors {
    case .none: break
    case .masks:
      let factor = try unit.lossFactor(beside: besideFactor)
      let loss = Loss(try factor.requireGram(), on: unit.device)
      let nothing = Mask(rows: weight.rows, columns: weight.columns, pattern: .rows(sparsity: 1))
      let whole = loss.of(weight, nothing)
      errors = try measured(weight, factor, unit) { whole > 0 ? max(0, loss.of(weight, $0)) / whole : 0 }
    case .fits:
      let factor = try unit.factor()
      let error = FittedError(weight, gram: try factor.requireGram(), on: unit.device)
      errors = try measured(weight, factor, unit) { error.of($0) }
    }
    var writer = try SafetensorsWriter(
      path: unit.folder + "/" + Self.measurementObject,
      tensors: [("outliers", .f64, [outliers.count]), ("errors", .f64, [errors.count])])
    try writer.append(outliers)
    try writer.append(errors)
    try writer.finish()
  }

  /// The relative error of the outputs, `tr(D G D^T) / tr(W G W^T)`, with a Wanda mask of each sparsity.
  private func measured(
    _ weight: LinearWeight, _ factor: SiteFactor, _ unit: UnitContext, of error: (Mask) -> Double
  ) throws -> [Double] {
    let candidates = candidates
    return try candidates.enumerated().map { index, candidate in
      let mask = mostSalient(
        weight, .wanda, diagonal: factor.diagonal, pattern: candidate.pattern, on: unit.device)
      try unit.progress(index + 1, of: candidates.count)
      return error(mask)
    }
  }

  /// The patterns of N:M that a matrix can get, or those of rows at which errors are measured; sparsities ascend.
  private var candidates: [(sparsity: Double, pattern: SparsityPattern)] {
    guard let of else {
      // A block may be twice the range away from the mean, and a matrix the range from its block.
      let (points, reach) = within == .none ? (9, reach) : (13, 3 * reach)
      let lowest = max(0, sparsity - reach)
      let step = (min(1, sparsity + reach) - lowest) / Double(points - 1)
      return (0..<points).map { lowest + step * Double($0) }.map { ($0, .rows(sparsity: $0)) }
    }
    return (0..<of).map { (Double($0) / Double(of), .groups(keep: of - $0, of: of)) }
      .filter { abs($0.0 - sparsity) <= reach + 1e-9 }
  }

  /// How far the sparsity of a matrix may be from the mean.
  private var reach: Double { of.map { max(range, 1 / Double($0)) } ?? range }

  // MARK: - All matrices

  public func allocate(_ unit: UnitContext) throws -> AllocationReport {
    let measured = unit.matrixInputs(.measurement)
    let matrices = measured.map(\.matrix)
    let files = try measured.map { try SafetensorsFile(path: $0.folder + "/" + Self.measurementObject) }
    let errors = try files.map { try $0.tensor("errors", dtype: .f64).doubles() }
    let weights = matrices.map { Double($0.rows * $0.columns) }
    let points = candidates.map(\.sparsity)
    var sparsities: [Double]
    switch method {
    case .uniform: sparsities = matrices.map { _ in sparsity }
    case .owl: sparsities = try byOutliers(matrices, files, weights, errors, unit.model)
    case .error, .refit:
      let least = of == nil ? SparsityAllocation.leastError : SparsityAllocation.leastErrorInSteps
      sparsities = least(points, errors, weights, sparsity)
    }
    if of != nil, self.errors == .none {
      sparsities = SparsityAllocation.nearest(
        sparsities, points: points, weights: weights, sparsity: sparsity)
    }
    let patterns = sparsities.map(pattern)
    let json = JSON.object(JSONObject(zip(matrices, patterns).map { (key: $0.module, value: $1.json) }))
    try Folder.writeAtomically(Array(json.prettyText.utf8), to: unit.folder + "/" + PatternChoice.allocation)
    var report = AllocationReport()
    report.method = method.rawValue
    report.matrices = matrices.count
    report.leastSparsity = sparsities.min() ?? 0
    report.mostSparsity = sparsities.max() ?? 0
    report.meanSparsity = zip(sparsities, weights).reduce(0) { $0 + $1.0 * $1.1 } / weights.reduce(0, +)
    return report
  }

  private func pattern(_ sparsity: Double) -> SparsityPattern {
    guard let of else { return .rows(sparsity: sparsity) }
    return .groups(keep: of - Int((sparsity * Double(of)).rounded()), of: of)
  }

  /// One sparsity per block, from its share of outlying weights; its matrices may share it by their errors.
  private func byOutliers(
    _ matrices: [ModelOutline.Matrix], _ files: [SafetensorsFile], _ weights: [Double], _ errors: [[Double]],
    _ model: ModelOutline
  ) throws -> [Double] {
    let blockOf = Dictionary(
      model.blocks.flatMap { block in block.matrices.map { ($0.module, block.index) } },
      uniquingKeysWith: { first, _ in first })
    let blocks = matrices.map { blockOf[$0.module] ?? 0 }
    var censuses: [Int: OutlierCensus] = [:]
    for (block, file) in zip(blocks, files) {
      let values = try file.tensor("outliers", dtype: .f64).doubles()
      guard let sum = values.first, values.allSatisfy({ (0...1e300).contains($0) }),
        let census = OutlierCensus(sum: sum, counts: values.dropFirst().map { Int($0) })
      else { throw EspalierError.internalFault("a measurement of allocate is damaged.") }
      censuses[block, default: OutlierCensus()].merge(census)
    }
    let shares = blocks.map { censuses[$0]?.shareAbove(outlier) ?? 0 }
    var sparsities = SparsityAllocation.byOutliers(
      shares: shares, weights: weights, sparsity: sparsity, range: reach)
    guard within != .none else { return sparsities }
    for block in Set(blocks) {
      let own = blocks.indices.filter { blocks[$0] == block }
      let shared = SparsityAllocation.leastError(
        points: candidates.map(\.sparsity), errors: own.map { errors[$0] }, weights: own.map { weights[$0] },
        sparsity: sparsities[own[0]], range: range)
      for (matrix, sparsity) in zip(own, shared) { sparsities[matrix] = sparsity }
    }
    return sparsities
  }
}
