import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// Writes the fitted weights of a unit's matrix in the checkpoint's type, and computes the loss of the rounded weights.
struct WeightWriter: ~Copyable {
  private let weight: LinearWeight
  private let loss: Loss
  private let isShifted: Bool
  private let dtype: DType
  private var file: SafetensorsWriter
  /// Rows written so far.
  private(set) var row = 0
  /// Sum over the rows of `(w - w')^T G (w - w')`, with the rounded weights w'; see ``TargetShift`` for targets with a shift.
  private(set) var lossSum = 0.0

  init(_ unit: UnitContext, _ weight: LinearWeight, gram: GramMatrix, shift: TargetShift?) throws {
    guard let dtype = weight.tensor.dtype else {
      throw EspalierError.internalFault("the tensor \(weight.tensor.name) has no type.")
    }
    file = try SafetensorsWriter(
      path: unit.folder + "/" + PrunedMatrix.weightFile,
      tensors: [(PrunedMatrix.weightName, dtype, [weight.rows, weight.columns])])
    self.weight = weight
    loss = Loss(gram, shift: shift, on: unit.device)
    isShifted = shift != nil
    self.dtype = dtype
  }

  /// Writes the next rows: `rows x columns`.
  mutating func append(_ rows: borrowing Matrix) throws {
    guard let rounded = RoundedWeights(rows, as: dtype) else {
      throw EspalierError.badInput(
        "the fitted weights of rows \(row) to \(row + rows.rows - 1) of \(weight.tensor.name) do not fit into \(dtype.rawValue); raise the damping."
      )
    }
    try file.append(rounded.bytes)
    let least = isShifted ? -Double.infinity : 0
    lossSum += loss.ofUpdate(weight, rounded.values(), firstRow: row).reduce(0) { $0 + max(least, $1) }
    row += rows.rows
  }

  consuming func finish() throws { try file.finish() }
}
