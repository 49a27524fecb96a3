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

  /// Norms every part of one row.
  fileprivate borrowing func apply(_ x: Span<Float>, into y: inout MutableSpan<Float>) {
    let (scale, shift) = (self.scale.elements.span, self.shift.elements.span)
    for start in stride(from: 0, to: x.count, by: width) {
      let weights = start % scale.count..<start % scale.count + width
      let input = x.extracting(start..<start + width)
      var output = y.part(start..<start + width)
      switch kind {
      case .rms: espalier_rms_norm(epsilon, input, scale.extracting(weights), &output)
      case .layer:
        espalier_layer_norm(
          epsilon, input, scale.extracting(weights), shift.extracting(weights), &output)
      }
    }
  }
}

/// Norms every part of `norm.width` columns of some rows.
///
/// - Parameters:
///   - input: `tokens x columns`.
///   - first: the first row of the input; the output says how many there are.
public func normalize(
  _ input: borrowing Matrix, from first: Int = 0, _ norm: borrowing NormWeights, into output: inout Matrix,
  on device: Device
) {
  precondition(output.columns == input.columns && input.columns % norm.width == 0)
  precondition(first >= 0 && first + output.rows <= input.rows)
  let input = input.rowSpans
  let output = output.mutableRowSpans
  device.forEachBlock(ofRows: output.rows) {
    for row in $0 {
      var line = output[row]
      norm.apply(input[first + row], into: &line)
    }
  }
}

/// Norms every part of `norm.width` columns in place.
public func normalize(_ states: inout Matrix, _ norm: borrowing NormWeights, on device: Device) {
  let columns = states.columns
  precondition(columns % norm.width == 0)
  let rows = states.mutableRowSpans
  let blocks = parts(of: rows.rows, size: 64)
  device.forEach(
    blocks.count, scratch: { Buffer<Float>(unfilled: columns) },
    { copy, index in
      for row in blocks[index] {
        var line = rows[row]
        var saved = copy.mutableSpan
        saved.copy(line.span)
        norm.apply(copy.span, into: &line)
      }
    })
}
