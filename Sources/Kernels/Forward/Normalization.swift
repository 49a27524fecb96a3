import CKernels
import EspalierCore

/// A norm with its learned values, ready to be applied to parts of `width` columns.
public struct NormWeights: ~Copyable, Sendable {
  public enum Kind: Sendable, Hashable {
    /// `x / sqrt(mean(x^2) + epsilon) * scale`
    case rms
    /// `(x - mean) / sqrt(variance + epsilon) * scale + shift`
    case layer
  }

  let kind: Kind
  let width: Int
  let epsilon: Float
  /// `1 x width`, or one after the other for every part of a row.
  let scale: Matrix
  let shift: Matrix

  /// - Parameters:
  ///   - width: the columns over which a mean is taken.
  ///   - scale, shift: one row, of `width` columns or a multiple of them; rows of ones and zeros if nil.
  public init(
    _ kind: Kind, width: Int, epsilon: Float, scale: consuming Matrix?, shift: consuming Matrix? = nil
  ) {
    self.kind = kind
    self.width = width
    self.epsilon = epsilon
    let weights = scale ?? Self.row(width, 1)
    let count = weights.columns
    precondition(width > 0 && count % width == 0)
    self.scale = weights
    self.shift = shift ?? Self.row(count, 0)
    precondition(self.shift.columns == count)
  }

  private static func row(_ count: Int, _ value: Float) -> Matrix {
    var row = Matrix(rows: 1, columns: count)
    for column in 0..<count { row[0, column] = value }
    return row
  }

  fileprivate borrowing func apply(
    columns: Int, _ x: UnsafePointer<Float>, _ scale: UnsafePointer<Float>, _ shift: UnsafePointer<Float>,
    into y: UnsafeMutablePointer<Float>
  ) {
    let period = self.scale.columns
    for start in stride(from: 0, to: columns, by: width) {
      let place = start % period
      switch kind {
      case .rms: espalier_rms_norm(width, epsilon, x + start, scale + place, y + start)
      case .layer: espalier_layer_norm(width, epsilon, x + start, scale + place, shift + place, y + start)
      }
    }
  }
}

/// Norms every part of `norm.width` columns of some rows.
///
/// - Parameters:
///   - input: `tokens x columns`.
///   - first: the first row of the input; as many are taken as the output has.
public func normalize(
  _ input: borrowing Matrix, from first: Int = 0, _ norm: borrowing NormWeights, into output: inout Matrix
) {
  let (rows, columns) = (output.rows, input.columns)
  precondition(output.columns == columns && columns % norm.width == 0)
  precondition(first >= 0 && first + rows <= input.rows)
  input.elements.withUnsafe { input in
    norm.scale.elements.withUnsafe { scale in
      norm.shift.elements.withUnsafe { shift in
        output.elements.withUnsafeMutable { output in
          nonisolated(unsafe) let (x, w, b, y) = (
            input.baseAddress! + first * columns, scale.baseAddress!, shift.baseAddress!, output.baseAddress!
          )
          let blocks = parts(of: rows, size: 64)
          Threads.forEach(blocks.count) { index in
            for row in blocks[index] {
              norm.apply(columns: columns, x + row * columns, w, b, into: y + row * columns)
            }
          }
        }
      }
    }
  }
}

/// Norms every part of `norm.width` columns in place.
public func normalize(_ states: inout Matrix, _ norm: borrowing NormWeights) {
  let columns = states.columns
  precondition(columns % norm.width == 0)
  norm.scale.elements.withUnsafe { scale in
    norm.shift.elements.withUnsafe { shift in
      nonisolated(unsafe) let (w, b) = (scale.baseAddress!, shift.baseAddress!)
      forEachBlock(of: &states) { rows, x in
        for row in 0..<rows.count {
          norm.apply(columns: columns, x + row * columns, w, b, into: x + row * columns)
        }
      }
    }
  }
}
