/// The rows of a matrix, for reading: each row is a span of `columns` elements.
public struct RowSpans<Element: BitwiseCopyable>: ~Escapable {
  public let rows: Int
  public let columns: Int
  /// All elements, row after row.
  public let span: Span<Element>

  @inlinable
  @_lifetime(copy span)
  public init(_ span: Span<Element>, rows: Int, columns: Int) {
    precondition(rows >= 0 && columns >= 0 && span.count == rows * columns)
    self.rows = rows
    self.columns = columns
    self.span = span
  }

  /// One row.
  @inlinable
  public subscript(row: Int) -> Span<Element> {
    @_lifetime(copy self)
    get { span.extracting(row * columns..<(row + 1) * columns) }
  }

  /// Consecutive rows, row after row.
  @inlinable
  public subscript(range: Range<Int>) -> Span<Element> {
    @_lifetime(copy self)
    get { span.extracting(range.lowerBound * columns..<range.upperBound * columns) }
  }
}

extension RowSpans: Sendable where Element: Sendable {}

/// The rows of a matrix, for writing: threads share them, and each row belongs to one thread at a time.
///
/// The compiler checks that the matrix outlives its rows. The caller makes sure that no two threads write the same element.
public struct MutableRowSpans<Element: BitwiseCopyable>: ~Escapable, @unchecked Sendable {
  public let rows: Int
  public let columns: Int
  @usableFromInline let base: UnsafeMutablePointer<Element>

  /// For IO and Kernels only: rows at an address that stays valid for as long as they are used.
  @inlinable
  @_lifetime(immortal)
  public init(unsafe base: UnsafeMutablePointer<Element>, rows: Int, columns: Int) {
    self.rows = rows
    self.columns = columns
    self.base = base
  }

  /// One row.
  @inlinable
  public subscript(row: Int) -> MutableSpan<Element> {
    @_lifetime(copy self)
    get { self[row..<row + 1] }
  }

  /// Consecutive rows, row after row.
  @inlinable
  public subscript(range: Range<Int>) -> MutableSpan<Element> {
    @_lifetime(copy self)
    get {
      precondition(range.lowerBound >= 0 && range.upperBound <= rows, "row out of range")
      return _overrideLifetime(
        MutableSpan(_unsafeStart: base + range.lowerBound * columns, count: range.count * columns),
        copying: self)
    }
  }
}

extension Buffer {
  /// The elements as rows of `columns` elements, for reading.
  @inlinable
  @_lifetime(borrow self)
  public borrowing func rowSpans(columns: Int) -> RowSpans<Element> {
    // An empty matrix may have any width.
    RowSpans(span, rows: columns == 0 ? 0 : count / columns, columns: columns)
  }

  /// The elements as rows of `columns` elements, for threads that write one row each.
  @inlinable
  @_lifetime(&self)
  public mutating func mutableRowSpans(columns: Int) -> MutableRowSpans<Element> {
    precondition(columns >= 0 && (columns == 0 || count % columns == 0))
    return _overrideLifetime(
      MutableRowSpans(unsafe: base, rows: columns == 0 ? 0 : count / columns, columns: columns),
      mutating: &self)
  }
}

extension Matrix {
  /// The rows, for reading.
  @inlinable
  public var rowSpans: RowSpans<Float> {
    @_lifetime(borrow self)
    borrowing get { RowSpans(elements.span, rows: rows, columns: columns) }
  }

  /// The rows, for threads that write one row each.
  @inlinable
  public var mutableRowSpans: MutableRowSpans<Float> {
    @_lifetime(&self)
    mutating get {
      _overrideLifetime(
        MutableRowSpans(unsafe: elements.base, rows: rows, columns: columns), mutating: &self)
    }
  }
}

extension MutableSpan where Element: BitwiseCopyable {
  /// Some of the elements, for writing.
  @inlinable
  @_lifetime(&self)
  public mutating func part(_ range: Range<Int>) -> MutableSpan<Element> { _mutatingExtracting(range) }

  /// Copies all elements of a span of the same length.
  @inlinable
  @_lifetime(self: copy self)
  public mutating func copy(_ other: Span<Element>) {
    precondition(other.count == count, "the lengths differ")
    withUnsafeMutableBytes { target in
      other.withUnsafeBytes { target.copyMemory(from: $0) }
    }
  }
}
