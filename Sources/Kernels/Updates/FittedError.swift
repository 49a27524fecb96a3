import EspalierCore

/// Rows of a sample in one run, and the number of runs, evenly spaced in the matrix.
private let (rowsOfARun, runs) = (16, 8)

/// What pruning a matrix costs after its kept weights are fitted, as a share of what its outputs are: the sums over the rows of
/// `(w - w')^T G (w - w')` and of `w^T G w`, w' being fitted on a mask as in ``reconstruct(_:gram:shift:mask:options:on:write:)``.
///
/// At most 128 rows are looked at: a mean over them is close to that over all.
public struct FittedError: ~Copyable {
  private let weight: LinearWeight
  private let system: FitSystem
  private let sample: [Range<Int>]
  private let device: Device
  private let whole: Double

  /// - Parameters:
  ///   - weight: `rows x columns`, dense.
  ///   - gram: `columns x columns`.
  public init(
    _ weight: LinearWeight, gram: GramMatrix, options: ReconstructOptions = ReconstructOptions(),
    on device: Device
  ) {
    (self.weight, self.device) = (weight, device)
    system = FitSystem(gram, options)
    let count = max(1, min(runs, weight.rows / rowsOfARun))
    sample = (0..<count).map {
      let first = $0 * weight.rows / count
      return first..<min(weight.rows, first + rowsOfARun)
    }
    var whole = 0.0
    for rows in sample {
      // Without a mask everything is pruned, and a fit has nothing to fit.
      var block = RowBlock(weight, nil, rows: rows, on: device)
      whole += fit(&block, system, RowShifts(), on: device).reduce(0) { $0 + $1.before }
    }
    self.whole = whole
  }

  /// The error with a mask: 0 if nothing is lost, 1 if all is.
  public borrowing func of(_ mask: Mask) -> Double {
    guard whole > 0 else { return 0 }
    var lost = 0.0
    for rows in sample {
      var block = RowBlock(weight, mask, rows: rows, on: device)
      lost += fit(&block, system, RowShifts(), on: device).reduce(0) { $0 + $1.after }
    }
    return max(0, lost) / whole
  }

  /// Bytes that it takes, without the pages of the weight and the Gram matrix and without masks.
  public static func workingSet(rows: Int, columns: Int, rank: Int?, threads: Int) -> Int {
    ReconstructOptions.workingSet(
      rows: min(rows, rowsOfARun), columns: columns, pattern: nil, rank: rank, threads: threads
    ) { _ in 0 }
  }

  /// Operations of the fits with one mask.
  public static func operations(rows: Int, columns: Int, kept: Int) -> Double {
    Double(min(rows, runs * rowsOfARun)) * ReconstructOptions.operations(kept: kept, columns: columns)
  }
}
