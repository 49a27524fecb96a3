import EspalierCore

/// The loss of rows d of a matrix, `d^T G d` of each: what the outputs of a layer change by, squared and summed over its inputs, if d
/// is taken from its weights.
///
/// For a mask d is `(1-m).w`, for new weights w' it is `w - w'`. The Gram matrix is that of the calibration inputs, or of those held
/// out. Products are f32, of blocks of rows with half of G, and summed in f64.
///
/// If the targets have a shift s, `2 d . s` is added: see ``TargetShift`` for what such a loss means.
public struct Loss: Sendable {
  private let gram: GramMatrix
  private let shift: TargetShift?
  private let device: Device

  public init(_ gram: GramMatrix, shift: TargetShift? = nil, on device: Device) {
    self.gram = gram
    self.shift = shift
    self.device = device
  }

  /// The loss of each row of d.
  ///
  /// - Parameter shifts: of these rows.
  /// - Parameter d: any number of rows; at most ``RowBlock/mostRows`` keep the memory that ``workingSet(rows:columns:threads:)`` tells.
  func ofRows(_ d: borrowing Matrix, shifts: borrowing RowShifts) -> [Double] {
    zip(gram.quadraticForms(d, rows: d.rows, on: device), shifts.products(d)).map { $0 + 2 * $1 }
  }

  /// The loss of each row of a mask.
  public func ofRows(_ weight: LinearWeight, _ mask: Mask) -> [Double] {
    precondition(gram.columns == weight.columns && weight.mask == nil)
    return parts(of: weight.rows, size: RowBlock.mostRows).flatMap { rows in
      let pruned = RowBlock(weight, mask, rows: rows, on: device).prunedPart(on: device)
      return ofRows(pruned, shifts: RowShifts(shift, rows, of: weight, on: device))
    }
  }

  /// The loss of a mask: the sum over its rows.
  public func of(_ weight: LinearWeight, _ mask: Mask) -> Double { ofRows(weight, mask).reduce(0, +) }

  /// The loss of each of some consecutive rows of new weights.
  ///
  /// - Parameters:
  ///   - weight: `rows x columns`, without a mask of its own.
  ///   - new: consecutive rows of new weights, that of `firstRow` first.
  public func ofUpdate(_ weight: LinearWeight, _ new: borrowing Matrix, firstRow: Int) -> [Double] {
    precondition(new.columns == weight.columns && gram.columns == weight.columns && weight.mask == nil)
    var difference = weight.matrix(firstRow..<firstRow + new.rows)
    do {
      let rows = difference.mutableRowSpans
      let fitted = new.rowSpans
      device.forEach(new.rows) { index in
        var row = rows[index]
        let fitted = fitted[index]
        for column in fitted.indices { row[column] -= fitted[column] }
      }
    }
    let rows = firstRow..<firstRow + new.rows
    return ofRows(difference, shifts: RowShifts(shift, rows, of: weight, on: device))
  }

  /// Bytes that the loss of a mask takes, without the pages of the weight and the Gram matrix.
  ///
  /// - Parameter rank: the rows of the factor of the Gram matrix; nil if it is whole.
  public static func workingSet(rows: Int, columns: Int, rank: Int?, threads: Int) -> Int {
    RowBlock.prunedByteCount(rows: rows, columns: columns)
      + max(
        RowBlock.byteCount(rows: rows, columns: columns),
        GramMatrix.formsByteCount(
          rows: min(RowBlock.mostRows, rows), columns: columns, rank: rank, threads: threads))
  }
  /// Bytes that ``ofUpdate(_:_:firstRow:)`` takes for `rows` rows of new weights, without them.
  public static func updateWorkingSet(rows: Int, columns: Int, rank: Int?, threads: Int) -> Int {
    rows * columns * 4 + GramMatrix.formsByteCount(rows: rows, columns: columns, rank: rank, threads: threads)
  }
}
