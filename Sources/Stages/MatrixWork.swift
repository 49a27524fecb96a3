import EspalierCore
import EspalierPipeline

/// What the works of stages are made of.
extension ModelOutline.Matrix {
  /// Weights, `rows x columns`.
  var weights: Double { Double(rows) * Double(columns) }
  /// Operations of a product of all rows with the Gram matrix.
  var gramOperations: Double { 2 * weights * Double(columns) }
  /// Bytes of memory traffic that choosing the most salient weights of every row takes; measured.
  var selectionBytes: Double { 160 * weights }
}
