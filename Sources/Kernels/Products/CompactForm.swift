import CKernels
import EspalierCore
import EspalierIO

/// What a matrix becomes as a bit mask and the values that it keeps; see ``CompactMatrix``.
///
/// A value is kept if one of its bits is 1, so negative zeros stay what they are.
public struct CompactForm: Sendable {
  /// The formats of compressed-tensors.
  public enum Format: String, Sendable {
    case bitmask = "sparse-bitmask"
    /// Every group of four keeps exactly two values, zeros among them if there are not enough others.
    case twoOfFour = "sparse-24-bitmask"
  }

  public let rows: Int
  public let columns: Int
  public let dtype: DType
  /// Values that are not +0.
  public let count: Int
  /// How many of these are -0.
  public let negativeZeros: Int
  /// Whether no group of four has more than two of them.
  public let fitsTwoOfFour: Bool

  /// Reads the weight once.
  ///
  /// - Parameter read: called with the rows read so far.
  /// - Throws: what `read` throws.
  public init(_ weight: LinearWeight, read: (Int) throws -> Void) throws {
    rows = weight.rows
    columns = weight.columns
    dtype = weight.dtype
    var (count, negativeZeros, fits) = (0, 0, weight.columns % 4 == 0)
    for band in Self.bands(of: weight) {
      let dense = weight.maskedBytes(band)
      weight.release(band)
      var bits = Buffer<UInt8>(unfilled: band.count * Mask.rowBytes(columns))
      for row in 0..<band.count { count += Self.mark(dense, row, columns, dtype, &bits) }
      negativeZeros += Self.negativeZeros(dense, dtype)
      fits = fits && espalier_fits_two_of_four(bits.span) != 0
      try read(band.upperBound)
    }
    self.count = count
    self.negativeZeros = negativeZeros
    fitsTwoOfFour = fits
  }

  /// Bytes of the dense matrix that are encoded at a time.
  private static let bandBytes = 1 << 20

  /// Rows that are encoded at a time; at least one.
  public static func bands(of weight: LinearWeight) -> [Range<Int>] {
    parts(of: weight.rows, size: max(1, bandBytes / max(1, weight.columns * weight.dtype.byteCount)))
  }

  /// Bytes that encoding a matrix of `rows` rows takes, whose dense form has `bytes`: a band, its values and its bits, and the places of
  /// all rows.
  public static func workingSet(rows: Int, bytes: Int) -> Int {
    let band = min(bytes, bandBytes)
    return 2 * band + band / 8 + rows + 2 * rows * 8
  }

  /// The shapes of the parts.
  public func shapes(_ format: Format) -> (values: [Int], bitmask: [Int], shape: [Int], rowOffsets: [Int]?) {
    let mask = [rows, Mask.rowBytes(columns)]
    return switch format {
    case .bitmask: ([count], mask, [2], [rows])
    case .twoOfFour: ([rows, columns / 2], mask, [2, 1], nil)
    }
  }

  /// Bytes of all parts.
  public func byteCount(_ format: Format) -> Int {
    let values = format == .bitmask ? count : rows * (columns / 2)
    return values * dtype.byteCount + rows * Mask.rowBytes(columns) + 16 + (format == .bitmask ? rows * 8 : 0)
  }

  public var denseByteCount: Int { rows * columns * dtype.byteCount }

  /// Some rows in this form.
  public struct Rows: ~Copyable {
    public let bitmask: Buffer<UInt8>
    private let allValues: Buffer<UInt8>
    private let valueBytes: Int
    /// How many values each row keeps.
    public let counts: [Int]

    public var values: Span<UInt8> {
      @_lifetime(borrow self)
      borrowing get { allValues.span.extracting(0..<valueBytes) }
    }

    fileprivate init(
      bitmask: consuming Buffer<UInt8>, values: consuming Buffer<UInt8>, valueBytes: Int, counts: [Int]
    ) {
      self.bitmask = bitmask
      allValues = values
      self.valueBytes = valueBytes
      self.counts = counts
    }
  }

  /// Encodes some rows.
  public static func encode(_ rows: Range<Int>, of weight: LinearWeight, _ format: Format) -> Rows {
    let (columns, dtype) = (weight.columns, weight.dtype)
    let width = Mask.rowBytes(columns)
    let dense = weight.maskedBytes(rows)
    weight.release(rows)
    var bits = Buffer<UInt8>(unfilled: rows.count * width)
    var values = Buffer<UInt8>(unfilled: dense.count)
    var counts: [Int] = []
    var end = 0
    for row in 0..<rows.count {
      _ = mark(dense, row, columns, dtype, &bits)
      if format == .twoOfFour {
        var line = bits.part(row * width..<(row + 1) * width)
        espalier_fill_two_of_four(columns, &line)
      }
      let taken = take(
        dense, row, columns, dtype, bits.span.extracting(row * width..<(row + 1) * width), into: &values,
        at: end)
      counts.append(taken)
      end += taken * dtype.byteCount
    }
    return Rows(bitmask: bits, values: values, valueBytes: end, counts: counts)
  }

  /// Marks what is not +0 in a row; returns how many these are.
  private static func mark(
    _ dense: borrowing Buffer<UInt8>, _ row: Int, _ columns: Int, _ dtype: DType, _ bits: inout Buffer<UInt8>
  ) -> Int {
    let width = Mask.rowBytes(columns)
    var line = bits.part(row * width..<(row + 1) * width)
    return dense.withUnsafe { dense in
      guard let start = dense.baseAddress.map({ $0 + row * columns * dtype.byteCount }) else { return 0 }
      return dtype == .f32
        ? espalier_mark_nonzero_32(columns, start, &line) : espalier_mark_nonzero_16(columns, start, &line)
    }
  }

  private static func negativeZeros(_ dense: borrowing Buffer<UInt8>, _ dtype: DType) -> Int {
    let count = dense.count / dtype.byteCount
    return dense.withUnsafe { dense in
      guard let start = dense.baseAddress else { return 0 }
      return dtype == .f32
        ? espalier_count_negative_zeros_32(count, start) : espalier_count_negative_zeros_16(count, start)
    }
  }

  /// Puts the marked values of a row at byte `end`; returns how many these are.
  private static func take(
    _ dense: borrowing Buffer<UInt8>, _ row: Int, _ columns: Int, _ dtype: DType, _ bits: Span<UInt8>,
    into values: inout Buffer<UInt8>, at end: Int
  ) -> Int {
    values.withUnsafeMutable { values in
      dense.withUnsafe { dense in
        guard let start = dense.baseAddress.map({ $0 + row * columns * dtype.byteCount }) else { return 0 }
        let target = UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(values)[end...])
        if dtype == .f32 {
          var span = target.bindMemory(to: UInt32.self).mutableSpan
          return espalier_take_32(columns, bits, start, &span)
        }
        var span = target.bindMemory(to: UInt16.self).mutableSpan
        return espalier_take_16(columns, bits, start, &span)
      }
    }
  }
}
