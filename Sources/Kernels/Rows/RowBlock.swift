import CKernels
import EspalierCore

/// A block of a matrix's rows in memory: their weights as f32, and which of them a mask keeps. Swaps, ADMM, SparseGPT and the fits
/// of kept weights all work on such blocks.
///
/// - ``weights`` and ``kept`` are `rows x columns`, and may be changed. Threads share their rows as ``spans``.
/// - ``prunedPart(on:)`` makes `d = (1-m).w`, the rows whose loss `d^T G d` is lowered; see ``Loss``.
/// - ``storeKept(into:)`` writes the kept weights back to the mask.
///
/// The mask is a byte for each weight here and a bit everywhere else: searches read 16 of them as lanes and single ones in any
/// order, at every step, and would wait for the shifts.
struct RowBlock: ~Copyable {
  /// Rows in a block.
  static let mostRows = rowsOfABlock

  /// Where the rows are in the matrix.
  let rows: Range<Int>
  let columns: Int
  /// `rows x columns`.
  var weights: Matrix
  /// 1 for a kept weight, 0 for a pruned one; `rows x columns`.
  var kept: Buffer<UInt8>

  init(rows: Range<Int>, weights: consuming Matrix, kept: consuming Buffer<UInt8>) {
    precondition(weights.rows == rows.count && kept.count == rows.count * weights.columns)
    self.rows = rows
    columns = weights.columns
    self.weights = weights
    self.kept = kept
  }

  /// Loads rows of a matrix and of its mask; without a mask nothing is kept.
  init(_ weight: LinearWeight, _ mask: Mask?, rows: Range<Int>, on device: Device) {
    precondition(mask.map { $0.rows == weight.rows && $0.columns == weight.columns } ?? true)
    self.init(
      rows: rows, weights: Matrix(unfilled: rows.count, columns: weight.columns),
      kept: Buffer(count: rows.count * weight.columns))
    let spans = spans
    device.forEach(rows.count) { index in
      var values = spans.weights[index]
      let row = rows.lowerBound + index
      weight.load(row..<row + 1, into: &values)
      guard let mask else { return }
      var kept = spans.kept[index]
      unpackBits(mask.row(row), into: &kept)
    }
  }

  /// The rows of a block, for threads that each have rows of their own.
  struct Spans: ~Escapable, Sendable {
    let weights: MutableRowSpans<Float>
    let kept: MutableRowSpans<UInt8>

    @_lifetime(copy weights, copy kept)
    init(_ weights: MutableRowSpans<Float>, _ kept: MutableRowSpans<UInt8>) {
      (self.weights, self.kept) = (weights, kept)
    }
  }

  var spans: Spans {
    @_lifetime(&self)
    mutating get {
      // Both are parts of the block, and do not overlap.
      let weights = _overrideLifetime(weights.mutableRowSpans, copying: ())
      let kept = _overrideLifetime(kept.mutableRowSpans(columns: columns), copying: ())
      return _overrideLifetime(Spans(weights, kept), mutating: &self)
    }
  }

  /// The weights that are not kept, and 0 elsewhere: `(1-m).w`, `rows x columns`.
  func prunedPart(on device: Device) -> Matrix {
    var part = Matrix(unfilled: rows.count, columns: columns)
    do {
      let weights = weights.rowSpans
      let kept = kept.rowSpans(columns: columns)
      let pruned = part.mutableRowSpans
      device.forEach(rows.count) { row in
        var pruned = pruned[row]
        espalier_pruned_part(weights[row], kept[row], &pruned)
      }
    }
    return part
  }

  /// The weights alone.
  consuming func takeWeights() -> Matrix { weights }

  /// Writes what is kept to these rows of `mask`.
  func storeKept(into mask: inout Mask) {
    precondition(mask.columns == columns && rows.upperBound <= mask.rows)
    let kept = kept.rowSpans(columns: columns)
    let bits = mask.mutableRowSpans
    for index in 0..<rows.count {
      var row = bits[rows.lowerBound + index]
      packBits(kept[index], into: &row)
    }
  }

  /// Bytes of the largest block of a matrix, without its pruned part.
  static func byteCount(rows: Int, columns: Int) -> Int { min(mostRows, rows) * columns * 5 }

  /// Bytes of the pruned part of the largest block.
  static func prunedByteCount(rows: Int, columns: Int) -> Int { min(mostRows, rows) * columns * 4 }
}

/// The bits of bytes of 0 and 1, the least significant first.
func packBits(_ bytes: Span<UInt8>, into bits: inout MutableSpan<UInt8>) {
  precondition(bits.count == Mask.rowBytes(bytes.count))
  espalier_pack_bits(bytes, &bits)
}

/// A byte of 0 or 1 for each of the first `bytes.count` bits.
func unpackBits(_ bits: Span<UInt8>, into bytes: inout MutableSpan<UInt8>) {
  precondition(bits.count == Mask.rowBytes(bytes.count))
  espalier_unpack_bits(bits, &bytes)
}

/// Bit i is 1 if values[i] is not zero of either sign.
func nonzeroBits(_ values: Span<Float>, into bits: inout MutableSpan<UInt8>) {
  precondition(bits.count == Mask.rowBytes(values.count))
  espalier_nonzero_bits(values, &bits)
}
