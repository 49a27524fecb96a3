/// Which weights of a matrix are kept: `rows x columns` bits, 1 = kept.
///
/// A row starts at a byte; inside a byte the least significant bit comes first (`numpy.unpackbits(..., bitorder="little")`).
public struct Mask: Sendable, Equatable {
  public let rows: Int
  public let columns: Int
  public let pattern: SparsityPattern
  /// `rows x rowBytes` bytes; bits past the last column are 0.
  public private(set) var bits: [UInt8]

  /// Bytes of one row.
  public var rowBytes: Int { Self.rowBytes(columns) }

  public static func rowBytes(_ columns: Int) -> Int { (columns + 7) / 8 }

  /// A mask that keeps nothing.
  public init(rows: Int, columns: Int, pattern: SparsityPattern) {
    self.rows = rows
    self.columns = columns
    self.pattern = pattern
    bits = [UInt8](repeating: 0, count: rows * Self.rowBytes(columns))
  }

  /// A mask from its bits; nil if there is not one bit for each weight.
  public init?(rows: Int, columns: Int, pattern: SparsityPattern, bits: [UInt8]) {
    guard bits.count == rows * Self.rowBytes(columns) else { return nil }
    self.rows = rows
    self.columns = columns
    self.pattern = pattern
    self.bits = bits
  }

  /// The same weights, kept under another pattern.
  public func with(_ pattern: SparsityPattern) -> Mask {
    var mask = Mask(rows: rows, columns: columns, pattern: pattern)
    mask.bits = bits
    return mask
  }

  public subscript(row: Int, column: Int) -> Bool {
    get { bits[row * rowBytes + column / 8] >> (column % 8) & 1 == 1 }
    set {
      let bit = UInt8(1) << (column % 8)
      if newValue {
        bits[row * rowBytes + column / 8] |= bit
      } else {
        bits[row * rowBytes + column / 8] &= ~bit
      }
    }
  }

  /// The bits of one row, `rowBytes` bytes.
  @_lifetime(borrow self)
  public func row(_ row: Int) -> Span<UInt8> {
    bits.span.extracting(row * rowBytes..<(row + 1) * rowBytes)
  }

  /// The bits of some rows.
  public func bits(ofRows rows: Range<Int>) -> ArraySlice<UInt8> {
    bits[rows.lowerBound * rowBytes..<rows.upperBound * rowBytes]
  }

  /// Replaces the bits of some rows; `bits` has as many.
  public mutating func replaceRows(_ rows: Range<Int>, by bits: [UInt8]) {
    precondition(bits.count == rows.count * rowBytes)
    self.bits.replaceSubrange(rows.lowerBound * rowBytes..<rows.upperBound * rowBytes, with: bits)
  }

  /// The bits row by row, for threads that write one row each.
  public var mutableRowSpans: MutableRowSpans<UInt8> {
    @_lifetime(&self)
    mutating get {
      let (rows, rowBytes) = (rows, rowBytes)
      // Only the rows can reach the bits until they are gone.
      let base = bits.withUnsafeMutableBufferPointer { $0.baseAddress ?? .allocate(capacity: 0) }
      return _overrideLifetime(MutableRowSpans(unsafe: base, rows: rows, columns: rowBytes), mutating: &self)
    }
  }

  /// Kept weights of one row.
  public func keptCount(row: Int) -> Int {
    bits[row * rowBytes..<(row + 1) * rowBytes].reduce(0) { $0 + $1.nonzeroBitCount }
  }

  /// Kept weights of the whole matrix.
  public var keptCount: Int { bits.reduce(0) { $0 + $1.nonzeroBitCount } }

  /// The first row whose kept count, or one of whose groups, differs from the pattern, or 0 if the count of the whole matrix does;
  /// nil if all are exact.
  public func firstRowOffPattern() -> Int? {
    let kept = pattern.kept(ofColumns: columns)
    switch pattern {
    case .rows: return (0..<rows).first { keptCount(row: $0) != kept }
    case .matrix: return keptCount == rows * kept ? nil : 0
    case .groups(let keep, let of):
      return bits.withUnsafeBufferPointer { bits in
        (0..<rows).first { row in
          let line = UnsafeBufferPointer(rebasing: bits[row * rowBytes..<(row + 1) * rowBytes])
          return stride(from: 0, to: columns, by: of).contains { Self.count(line, $0..<$0 + of) != keep }
        }
      }
    }
  }

  /// Bits of a row that are set in a range.
  private static func count(_ line: UnsafeBufferPointer<UInt8>, _ range: Range<Int>) -> Int {
    var (count, index) = (0, range.lowerBound)
    while index < range.upperBound {
      // As many bits of a byte as belong to the range.
      let taken = min(8 - index % 8, range.upperBound - index)
      count += (line[index / 8] >> UInt8(index % 8) & UInt8((1 << taken) - 1)).nonzeroBitCount
      index += taken
    }
    return count
  }
}
