import CKernels
import EspalierCore
import EspalierIO

/// What the targets of a matrix's rows have beyond the outputs of the dense rows: the target of row i is `t = w X + e`, with `X` the
/// inputs that the pruned model really has, and e the part that makes up for what was pruned before.
///
/// With a dense target `e = w (X_d - X)`, X_d being the inputs in the dense model; for a matrix that writes to the residual stream,
/// the error `H_d - H` that the stream has so far may be added. Kernels need of it only the shift `s = X e^T`, one value for each column:
///
///     s_i = E w_i + R_i        E = a X (X_d - X)^T, R = b X (H_d - H)^T, with shares a and b of the repair
///
/// If the outputs `W X_d` of the dense model are at hand, a narrower product is enough:
///
///     s_i = O_i - a G w_i      O = X (a W X_d + b (H_d - H))^T
///
/// For d = w - v, v being the masked or the fitted row, the loss `|t - v X|^2` is `d^T G d + 2 d . s` and `|e|^2`. The last term does not
/// depend on v and is not known. **Losses with a shift leave it out**: they may be negative, and only their differences mean something.
/// Nothing is compared with a share of them; where a scale is needed, it is the sum of `w_j^2 G_jj`.
public struct TargetShift: Sendable {
  /// What is multiplied by the rows of the matrix.
  private enum Factor {
    case none
    /// E, `columns x columns`, not symmetric.
    case cross(LinearWeight)
    /// G, times -a.
    case gram(GramMatrix, share: Float)
  }

  private let factor: Factor
  /// R or O, by rows of the matrix: `rows x columns`.
  private let residual: LinearWeight?

  /// - Parameters:
  ///   - cross: E, `columns x columns`: row a, column b is the sum over the tokens of `X_a (X_d - X)_b`.
  ///   - residual: `rows x columns`: row i, column a is the sum over the tokens of `X_a (H_d - H)_i`.
  /// - Throws: bad input if E is not square, or the two have different columns.
  public init(cross: LinearWeight?, residual: LinearWeight?) throws {
    if let cross, cross.rows != cross.columns {
      throw EspalierError.badInput(
        "the cross-Gram matrix \(cross.tensor.name) is \(cross.rows) x \(cross.columns), not square.",
        subject: cross.tensor.path)
    }
    if let cross, let residual, cross.columns != residual.columns {
      throw EspalierError.badInput(
        "\(residual.tensor.name) has \(residual.columns) columns, but \(cross.tensor.name) has \(cross.columns).",
        subject: residual.tensor.path)
    }
    factor = cross.map { .cross($0) } ?? .none
    self.residual = residual
  }

  /// - Parameters:
  ///   - outputs: O, `rows x columns`.
  ///   - share: a.
  ///   - gram: G.
  /// - Throws: bad input if they have different columns.
  public init(outputs: LinearWeight, share: Float, gram: GramMatrix) throws {
    guard outputs.columns == gram.columns else {
      throw EspalierError.badInput(
        "\(outputs.tensor.name) has \(outputs.columns) columns, but the Gram matrix has \(gram.columns).",
        subject: outputs.tensor.path)
    }
    factor = .gram(gram, share: share)
    residual = outputs
  }

  /// Whether it belongs to a matrix of this shape.
  func fits(_ weight: LinearWeight) -> Bool {
    let columns =
      switch factor {
      case .none: weight.columns
      case .cross(let cross): cross.columns
      case .gram(let gram, _): gram.columns
      }
    return columns == weight.columns
      && (residual.map { $0.rows == weight.rows && $0.columns == weight.columns } ?? true)
  }

  /// The shifts of some rows of a matrix: `range.count x columns`.
  func ofRows(_ range: Range<Int>, of weight: LinearWeight, on device: Device) -> Matrix {
    precondition(fits(weight) && weight.mask == nil)
    var shifts =
      residual.map { $0.matrix(range) } ?? Matrix(rows: range.count, columns: weight.columns)
    switch factor {
    case .none: break
    case .cross(let cross):
      var rows = weight.matrix(range)
      // f32 rounds nothing.
      let packed = PackedMatrix(rounding: &rows, .f32, on: device)
      linear(packed, cross, adding: true, into: &shifts, on: device)
    case .gram(let gram, let share):
      var products = Matrix(unfilled: range.count, columns: weight.columns)
      gram.multiply(weight.matrix(range), rows: range.count, into: &products, on: device)
      add(products, times: -share, into: &shifts, on: device)
    }
    return shifts
  }

  /// Bytes of the shifts of `rows` rows, and of making them; without the pages of E and R.
  static func byteCount(rows: Int, columns: Int, threads: Int) -> Int {
    let padded = (rows + panelWidth - 1) / panelWidth * panelWidth
    return rows * columns * 8 + padded * columns * 4
      + threads * linearScratchBytes(columns: columns, .f32)
  }

  /// Bytes that a kernel takes more if it is given a shift.
  ///
  /// - Parameter rows: the rows of the matrix. Kernels with a budget for the whole matrix hold all of them, `isAcrossRows`; others a
  ///   block.
  public static func workingSet(rows: Int, columns: Int, isAcrossRows: Bool, threads: Int) -> Int {
    byteCount(rows: min(RowBlock.mostRows, rows), columns: columns, threads: threads)
      + (isAcrossRows ? rows * columns * 4 : 0)
  }
}

/// The shifts of a block of rows, or none: then the targets are the outputs of the rows themselves.
struct RowShifts: ~Copyable {
  /// `rows x columns`; without rows if there are no shifts.
  let values: Matrix

  init(_ shift: TargetShift?, _ rows: Range<Int>, of weight: LinearWeight, on device: Device) {
    values = shift?.ofRows(rows, of: weight, on: device) ?? Matrix(rows: 0, columns: weight.columns)
  }

  /// No shifts.
  init() { values = Matrix(rows: 0, columns: 0) }

  private init(values: consuming Matrix) { self.values = values }

  /// Those of one row.
  func row(_ row: Int) -> RowShifts {
    guard !isNone else { return RowShifts() }
    let values = values.rowSpans[row]
    return RowShifts(values: Matrix(rows: 1, columns: values.count, values.indices.map { values[$0] }))
  }

  var isNone: Bool { values.rows == 0 }

  /// Adds them to the rows of `output`, which has as many.
  func add(to output: inout Matrix, at first: Int = 0) {
    let rows = output.mutableRowSpans
    for row in 0..<values.rows {
      var line = rows[first + row]
      espalier_add(values.rowSpans[row], &line)
    }
  }

  /// `d . s` of each of some rows d: half of what their losses have beyond `d^T G d`.
  func products(_ d: borrowing Matrix) -> [Double] {
    guard !isNone else { return [Double](repeating: 0, count: d.rows) }
    return (0..<d.rows).map { espalier_dot(d.rowSpans[$0], values.rowSpans[$0]) }
  }
}

extension RowBlock {
  /// What a search for moves needs to know of each row beside its correlations; see `espalier_swap_start`.
  ///
  /// - Parameter diagonal: of G.
  func starts(
    _ shifts: borrowing RowShifts, heldOut: borrowing RowShifts, _ pruned: borrowing Matrix,
    diagonal: [Double]
  ) -> Buffer<espalier_swap_start> {
    var starts = Buffer<espalier_swap_start>(count: rows.count)
    guard !shifts.isNone else { return starts }
    let (own, held) = (shifts.products(pruned), heldOut.products(pruned))
    let scales = scales(diagonal)
    for row in 0..<rows.count {
      starts[row] = espalier_swap_start(extra: own[row], held_extra: held[row], scale: scales[row])
    }
    return starts
  }

  /// The sum of `w_j^2 G_jj` of each row.
  func scales(_ diagonal: [Double]) -> [Double] {
    (0..<rows.count).map { row in
      let w = weights.rowSpans[row]
      return w.indices.reduce(0) { $0 + Double(w[$1]) * Double(w[$1]) * diagonal[$1] }
    }
  }
}
