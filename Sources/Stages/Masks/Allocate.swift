import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// Distributes a sparsity over the matrices of a model, before the first mask is made.
public struct Allocate: AllocationStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "allocate",
    summary:
      "Decides how sparse every matrix becomes: all the same, by the outliers of each block, or by measured errors, with fitted weights or without.",
    revision: 3
  ) { .allocation(Allocate(&$0)) }

  private static let measurementObject = "measurement.safetensors"

  enum Method: String, CaseIterable {
    case uniform
    case owl
    case error
    case refit

    var measuresErrors: Bool { self == .error || self == .refit }
  }

  /// The number of sparsities at which the error of a matrix is measured, including the lowest and the highest.
  private static let points = 9

  private let method: Method
  private let sparsity: Double
  private let range: Double
  private let outlier: Double
  private let targets: TargetFilter

  init(_ parameters: inout Parameters) {
    method = parameters.choice(
      "method", default: .owl,
      "uniform: the same for all; owl: blocks with more outliers keep more weights; error: the smallest sum of relative output errors; refit: the same after the kept weights are fitted, for stages that fit them (after LSA, ICLR 2026)."
    )
    sparsity = parameters.number(
      "sparsity", default: nil, in: 0...1, "Share of all target weights that is pruned.")
    if parameters.problems.isEmpty { parameters.rejectNothing(pruned: sparsity) }
    range = parameters.number(
      "range", default: 0.08, in: 0...0.5, "How far the sparsity of a matrix may be from the mean.")
    outlier = parameters.number(
      "outlier", default: 5, in: 1...1000,
      "With owl: a weight is an outlier if its saliency is this many times the mean of its block.")
    targets = TargetFilter(&parameters)
  }

  public var needsGram: Bool { method.measuresErrors }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { targets.contains(matrix.module) }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws { try targets.check(model) }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet(rows: 2 * OutlierCensus.workingSet(columns: 0)) }
    switch method {
    case .uniform, .owl:
      return WorkingSet(
        weightPages: sizes.tensorBytes, rows: 2 * OutlierCensus.workingSet(columns: matrix.columns))
    case .error: return sizes.withLossFactor(besideFactor(sizes))
    case .refit:
      return WorkingSet(
        weightPages: sizes.tensorBytes, gramPages: sizes.factorBytes,
        rows: 2 * matrix.rows * Mask.rowBytes(matrix.columns)
          + max(
            scoringByteCount(rows: matrix.rows, columns: matrix.columns, threads: sizes.threads),
            FittedError.workingSet(
              rows: matrix.rows, columns: matrix.columns, rank: sizes.factorRank, threads: sizes.threads)))
    }
  }

  private func besideFactor(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    return WorkingSet(
      weightPages: sizes.tensorBytes,
      rows: 2 * matrix.rows * Mask.rowBytes(matrix.columns)
        + max(
          scoringByteCount(rows: matrix.rows, columns: matrix.columns, threads: sizes.threads),
          Loss.workingSet(
            rows: matrix.rows, columns: matrix.columns, rank: sizes.factorRank, threads: sizes.threads)))
  }

  public func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    switch method {
    case .uniform: return Work(memoryBytes: matrix.weights * 4)
    case .owl: return Work(memoryBytes: matrix.weights * 32)
    case .error:
      let points = Double(Self.points)
      return Work(
        operations: (points + 1) * matrix.gramOperations / 2, memoryBytes: points * matrix.selectionBytes)
    case .refit:
      let operations = sparsities.reduce(0) {
        $0
          + FittedError.operations(
            rows: matrix.rows, columns: matrix.columns, kept: Int((1 - $1) * Double(matrix.columns)))
      }
      return Work(operations: operations, memoryBytes: Double(Self.points) * matrix.selectionBytes)
    }
  }

  // MARK: - One matrix

  public func measure(_ unit: UnitContext) throws {
    let weight = try unit.weight()
    defer { weight.tensor.release() }
    let values: [Double]
    switch method {
    case .uniform: values = [0]
    case .owl:
      let census = OutlierCensus(weight, diagonal: try unit.factor().diagonal)
      values = [census.sum] + census.counts.map(Double.init)
    case .error:
      let factor = try unit.lossFactor(beside: besideFactor)
      let loss = Loss(try factor.requireGram(), on: unit.device)
      let nothing = Mask(rows: weight.rows, columns: weight.columns, pattern: .rows(sparsity: 1))
      let whole = loss.of(weight, nothing)
      values = try errors(weight, factor, unit) { whole > 0 ? max(0, loss.of(weight, $0)) / whole : 0 }
    case .refit:
      let factor = try unit.factor()
      let error = FittedError(weight, gram: try factor.requireGram(), on: unit.device)
      values = try errors(weight, factor, unit) { error.of($0) }
    }
    var writer = try SafetensorsWriter(
      path: unit.folder + "/" + Self.measurementObject, tensors: [("values", .f64, [values.count])])
    try writer.append(values)
    try writer.finish()
  }

  /// The relative error of the outputs, `tr(D G D^T) / tr(W G W^T)`, with a Wanda mask of each sparsity.
  private func errors(
    _ weight: LinearWeight, _ factor: SiteFactor, _ unit: UnitContext, of error: (Mask) -> Double
  ) throws -> [Double] {
    try sparsities.enumerated().map { index, sparsity in
      let mask = mostSalient(
        weight, .wanda, diagonal: factor.diagonal, pattern: .rows(sparsity: sparsity), on: unit.device)
      try unit.progress(index + 1, of: Self.points)
      return error(mask)
    }
  }

  private var lowest: Double { max(0, sparsity - range) }
  private var highest: Double { min(1, sparsity + range) }

  private var sparsities: [Double] {
    (0..<Self.points).map { lowest + (highest - lowest) * Double($0) / Double(Self.points - 1) }
  }

  // MARK: - All matrices

  public func allocate(_ unit: UnitContext) throws -> AllocationReport {
    let measured = unit.matrixInputs(.measurement)
    let matrices = measured.map(\.matrix)
    let values = try measured.map {
      try SafetensorsFile(path: $0.folder + "/" + Self.measurementObject).tensor("values", dtype: .f64)
        .doubles()
    }
    let weights = matrices.map { Double($0.rows * $0.columns) }
    let sparsities: [Double] =
      switch method {
      case .uniform: matrices.map { _ in sparsity }
      case .owl: try byOutliers(matrices, values, weights, unit.model)
      case .error, .refit:
        SparsityAllocation.leastError(
          points: self.sparsities, errors: values, weights: weights, sparsity: sparsity)
      }
    let members = zip(matrices, sparsities).map { (key: $0.module, value: JSON.number($1)) }
    let json = JSON.object(JSONObject(members))
    try Folder.writeAtomically(Array(json.prettyText.utf8), to: unit.folder + "/" + PatternChoice.allocation)
    var report = AllocationReport()
    report.method = method.rawValue
    report.matrices = matrices.count
    report.leastSparsity = sparsities.min() ?? 0
    report.mostSparsity = sparsities.max() ?? 0
    return report
  }

  /// One sparsity per block, from its share of outlying weights.
  private func byOutliers(
    _ matrices: [ModelOutline.Matrix], _ values: [[Double]], _ weights: [Double], _ model: ModelOutline
  ) throws -> [Double] {
    let blockOf = Dictionary(
      model.blocks.flatMap { block in block.matrices.map { ($0.module, block.index) } },
      uniquingKeysWith: { first, _ in first })
    let blocks = matrices.map { blockOf[$0.module] ?? 0 }
    var censuses: [Int: OutlierCensus] = [:]
    for (block, values) in zip(blocks, values) {
      guard let sum = values.first, values.allSatisfy({ (0...1e300).contains($0) }),
        let census = OutlierCensus(sum: sum, counts: values.dropFirst().map { Int($0) })
      else { throw EspalierError.internalFault("a measurement of allocate is damaged.") }
      censuses[block, default: OutlierCensus()].merge(census)
    }
    let shares = blocks.map { censuses[$0]?.shareAbove(outlier) ?? 0 }
    return SparsityAllocation.byOutliers(shares: shares, weights: weights, sparsity: sparsity, range: range)
  }
}
