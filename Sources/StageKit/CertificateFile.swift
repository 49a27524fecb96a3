import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// A certificate beside a mask: `certificate.safetensors` with `lowerBounds`, F64, one for each row or one for the matrix, and
/// `losses`, F64, of every row of the mask. Stages that refine the mask copy the bounds.
enum CertificateFile {
  static let name = "certificate.safetensors"

  static func write(_ certificate: Certificate, losses: [Double], to folder: String) throws {
    var writer = try SafetensorsWriter(
      path: folder + "/" + name,
      tensors: [("lowerBounds", .f64, [certificate.lowerBounds.count]), ("losses", .f64, [losses.count])])
    try writer.append(certificate.lowerBounds)
    try writer.append(losses)
    try writer.finish()
  }

  /// The bounds beside the unit's input mask; nil if there are none, or if they do not hold for masks of `pattern`.
  ///
  /// A bound of a whole matrix also holds with row budgets, which are stricter. Bounds of rows do not hold if weights may move to
  /// other rows.
  static func read(_ unit: UnitContext, pattern: SparsityPattern) throws -> Certificate? {
    let path = try unit.input(.mask, name)
    guard try Folder.entry(path) != nil else { return nil }
    let bounds = try SafetensorsFile(path: path).tensor("lowerBounds", dtype: .f64).doubles()
    guard bounds.allSatisfy({ $0 >= 0 && $0.isFinite }),
      bounds.count == 1 || bounds.count == unit.matrix?.rows
    else { throw EspalierError.badInput("the bounds do not fit the mask beside them.", subject: path) }
    if case .matrix = pattern, bounds.count > 1 { return nil }
    return Certificate(lowerBounds: bounds)
  }
}
