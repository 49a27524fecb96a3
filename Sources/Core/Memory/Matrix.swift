/// An owned, row-major matrix of f32: `rows x columns`.
public struct Matrix: ~Copyable, Sendable {
  public let rows: Int
  public let columns: Int
  public var elements: Buffer<Float>

  /// A matrix of zeros.
  ///
  /// - Parameter scratch: where the memory comes from and goes back to; nil for the system.
  public init(rows: Int, columns: Int, in scratch: Scratch? = nil) {
    precondition(rows >= 0 && columns >= 0)
    self.rows = rows
    self.columns = columns
    elements = Buffer(count: rows * columns, in: scratch)
  }

  /// A matrix with any content, for those who write every element before it is read.
  public init(unfilled rows: Int, columns: Int, in scratch: Scratch? = nil) {
    precondition(rows >= 0 && columns >= 0)
    self.rows = rows
    self.columns = columns
    elements = Buffer(unfilled: rows * columns, in: scratch)
  }

  /// A matrix with the given elements, row after row.
  public init(rows: Int, columns: Int, _ values: some Collection<Float>) {
    precondition(values.count == rows * columns)
    self.init(rows: rows, columns: columns)
    var index = 0
    for value in values {
      elements[index] = value
      index += 1
    }
  }

  @inlinable
  public subscript(row: Int, column: Int) -> Float {
    get {
      precondition(row >= 0 && row < rows && column >= 0 && column < columns, "index out of range")
      return elements[row * columns + column]
    }
    set {
      precondition(row >= 0 && row < rows && column >= 0 && column < columns, "index out of range")
      elements[row * columns + column] = newValue
    }
  }

  /// Elements row after row, as an array; for tests and small results.
  public borrowing func array() -> [Float] {
    elements.withUnsafe { Array($0) }
  }
}
