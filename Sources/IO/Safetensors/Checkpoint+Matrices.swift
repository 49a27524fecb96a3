import EspalierCore

extension Checkpoint {
  /// The tensor of a matrix as it is stored: `rows x columns`, or `columns x rows` if its order is by columns.
  ///
  /// - Throws: bad input if it is missing or has another shape than the outline says.
  public func stored(_ matrix: ModelOutline.Matrix) throws -> CheckpointTensor {
    let shape =
      matrix.order == .rows ? [matrix.rows, matrix.columns] : [matrix.columns, matrix.rows]
    guard let part = matrix.part else { return try tensor(matrix.tensor, shape: shape) }
    let count = tensors[matrix.tensor]?.shape.first ?? 0
    return try .dense(tensor(matrix.tensor, shape: [count] + shape).dense().part(part))
  }
}
