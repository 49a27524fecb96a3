import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// Writes the fitted weights of a unit's matrix in the checkpoint's type, and computes the loss of the rounded weights. A rank that helps
/// the owner posts them to it.
struct WeightWriter: ~Copyable {
  private let weight: LinearWeight
  private let loss: Loss
  private let isShifted: Bool
  private let dtype: DType
  private let unit: UnitContext
  /// nil if another rank owns the matrix.
  private var file: SafetensorsWriter?
  /// The next row.
  private(set) var row: Int
  /// Sums over the rows of each block of `(w - w')^T G (w - w')`, with the rounded weights w'; see ``TargetShift`` for targets with a
  /// shift.
  private var losses: [Double] = []

  init(_ unit: UnitContext, _ weight: LinearWeight, gram: GramMatrix, shift: TargetShift?) throws {
    guard let dtype = weight.tensor.dtype else {
      throw EspalierError.internalFault("the tensor \(weight.tensor.name) has no type.")
    }
    file =
      unit.isOwner
      ? try SafetensorsWriter(
        path: unit.folder + "/" + PrunedMatrix.weightFile,
        tensors: [(PrunedMatrix.weightName, dtype, [weight.rows, weight.columns])]) : nil
    self.unit = unit
    row = unit.rows.lowerBound
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
    if unit.isOwner { try file?.append(rounded.bytes) } else { try unit.post(rows: rounded.array) }
    let least = isShifted ? -Double.infinity : 0
    losses.append(
      loss.ofUpdate(weight, rounded.values(), firstRow: row).reduce(0) { $0 + max(least, $1) })
    row += rows.rows
  }

  /// Takes the rows of the ranks that help, and completes the file.
  ///
  /// - Returns: the loss of all rows; on a rank that helps, of its own.
  consuming func finish() throws -> Double {
    for (rank, rows) in unit.isOwner ? unit.helpers : [] {
      for part in parts(of: rows.count, size: rowsOfABlock) {
        let bytes = part.count * weight.columns * dtype.byteCount
        try file?.append(unit.take(bytes, of: UInt8.self, from: rank))
      }
    }
    let losses = try unit.gather(losses)
    if let file = file.take() { try file.finish() }
    return losses.reduce(0, +)
  }
}
