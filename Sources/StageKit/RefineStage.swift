import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// A stage that changes the mask of each matrix and keeps the weights as they are. The losses before and after are measured, and
/// certificates carried on.
public protocol RefineStage: MatrixStage {
  /// Changes a mask; its pattern stays.
  ///
  /// - Parameters:
  ///   - mask: `rows x columns`, of the weight's shape.
  ///   - inputs: the factor of the site.
  ///   - unit: to show the progress, and for its device.
  /// - Returns: what only this stage reports.
  func refine(_ mask: inout Mask, of weight: LinearWeight, inputs: SiteFactor, _ unit: UnitContext) throws
    -> JSONObject
  /// Bytes of memory that ``refine(_:of:inputs:_:)`` takes at a time, without the weight, the mask and the factor.
  func refiningByteCount(_ sizes: UnitSizes) -> Int
}

extension RefineStage {
  public var reads: Set<ArtifactKind> { [.factor, .mask] }

  /// Whether ``refine(_:of:inputs:_:)`` reads ``SiteFactor/shift``.
  public var followsTarget: Bool { false }

  public func applies(to matrix: ModelOutline.Matrix) -> Bool { true }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet { sizes.withLossFactor(besideFactor(sizes)) }

  private func besideFactor(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    return WorkingSet(
      weightPages: sizes.tensorBytes,
      rows: 2 * sizes.maskBytes + sizes.shiftByteCount()
        + max(
          refiningByteCount(sizes), sizes.lossByteCount,
          Certificate.lossesWorkingSet(
            rows: matrix.rows, columns: matrix.columns, threads: sizes.threads)))
  }

  public func run(_ unit: UnitContext) throws -> MatrixReport {
    let weight = try unit.weight()
    let factor = try unit.lossFactor(beside: besideFactor)
    let loss = try factor.gram.map { Loss($0, shift: try unit.targetShift(), on: unit.device) }
    var mask = try unit.mask()
    let before = mask
    let details = try refine(&mask, of: weight, inputs: factor, unit)
    guard mask.rows == before.rows, mask.columns == before.columns, mask.pattern == before.pattern,
      mask.firstRowOffPattern() == nil
    else {
      throw EspalierError.badInput(
        "the stage returned a mask that does not keep the pattern \(before.pattern).")
    }
    try unit.write(mask)
    var report = try unit.matrixReport(mask.pattern)
    report.lossBefore = loss?.of(weight, before)
    report.lossAfter = loss?.of(weight, mask)
    report.details = details
    if let gram = factor.gram { try unit.carryCertificate(mask, weight, gram, into: &report) }
    weight.tensor.release()
    return report
  }
}
