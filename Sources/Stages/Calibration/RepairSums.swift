import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// The products of a site's inputs X with what the dense model has beyond the pruned one, beside its Gram matrix; see ``TargetShift``.
///
/// - ``Repair/cross``: `X (X_d - X)^T`, `columns x columns`.
/// - ``Repair/residual``: `(H_d - H) X^T`, `hidden x columns`: a row for each output of the site's matrices.
/// - ``Repair/outputs``: `(a W X_d + b (H_d - H)) X^T`, `hidden x columns`, with the shares a and b of the repair.
///
/// The others are multiplied by their share at the end.
final class RepairSums {
  let kind: Repair
  private let factor: Float
  private let columns: Int
  private let rows: Int
  private let holdsOut: Bool
  private var sums: CrossProduct
  /// Those of the sequences that are held out; without rows if none are.
  private var heldOut: CrossProduct

  /// - Parameter map: gives the place of a tensor in the factor's file, or nil if the sums are to grow in memory.
  init(
    _ kind: Repair, rows: Int, columns: Int, _ shares: SiteSums.Shares, holdsOut: Bool,
    _ precision: Precision, _ device: Device, _ map: (String) throws -> MappedBuffer?
  ) throws {
    self.kind = kind
    factor =
      switch kind {
      case .cross: shares.inputs
      case .residual: shares.hidden
      case .outputs: 1
      }
    (self.rows, self.columns, self.holdsOut) = (rows, columns, holdsOut)
    sums = CrossProduct(
      rows: rows, columns: columns, precision: precision,
      in: try map(SiteFactor.name(kind, onHeldOut: false)), on: device)
    heldOut = CrossProduct(
      rows: holdsOut ? rows : 0, columns: columns, precision: precision,
      in: holdsOut ? try map(SiteFactor.name(kind, onHeldOut: true)) : nil, on: device)
  }

  func add(
    _ inputs: borrowing Matrix, _ difference: borrowing Matrix, _ range: Range<Int>?, weight: Float,
    isHeldOut: Bool
  ) {
    switch (kind, isHeldOut) {
    case (.cross, false): sums.add(inputs, difference, rows: range, weight: weight)
    case (.cross, true): heldOut.add(inputs, difference, rows: range, weight: weight)
    case (.residual, false), (.outputs, false): sums.add(difference, inputs, rows: range, weight: weight)
    case (.residual, true), (.outputs, true): heldOut.add(difference, inputs, rows: range, weight: weight)
    }
  }

  // MARK: - Pieces

  var pieceCount: Int { sums.pieceCount + heldOut.pieceCount }

  /// One of the pieces in which the sums are carried to others of the same size.
  func piece(_ index: Int) -> [UInt8] {
    index < sums.pieceCount ? sums.piece(index) : heldOut.piece(index - sums.pieceCount)
  }

  func add(_ piece: [UInt8], at index: Int) throws {
    if index < sums.pieceCount {
      try sums.add(piece, at: index)
    } else {
      try heldOut.add(piece, at: index - sums.pieceCount)
    }
  }

  /// Makes all sums zero.
  func clear() {
    sums.clear()
    heldOut.clear()
  }

  // MARK: - The result

  /// Writes the sums into the factor's file, unless they grew there.
  func finish(in file: borrowing SafetensorsDraft) throws {
    sums.scale(by: factor)
    heldOut.scale(by: factor)
    try sums.write(SiteFactor.name(kind, onHeldOut: false), to: file)
    if holdsOut { try heldOut.write(SiteFactor.name(kind, onHeldOut: true), to: file) }
  }

  var tensors: [(name: String, dtype: DType, shape: [Int])] {
    Self.tensors(kind, rows, columns, holdsOut: holdsOut)
  }

  static func tensors(_ kind: Repair, _ rows: Int, _ columns: Int, holdsOut: Bool) -> [(
    name: String, dtype: DType, shape: [Int]
  )] {
    (holdsOut ? [false, true] : [false]).map {
      (SiteFactor.name(kind, onHeldOut: $0), .f32, [rows, columns])
    }
  }
}
