/// Number of elements of a tensor of this shape, or nil if a dimension is negative or the product overflows.
///
/// A shape that comes from a file is multiplied only here.
public func elementCount(of shape: [Int]) -> Int? {
  var count = 1
  for dimension in shape {
    guard dimension >= 0 else { return nil }
    let (product, overflow) = count.multipliedReportingOverflow(by: dimension)
    if overflow { return nil }
    count = product
  }
  return count
}

/// Rows of a matrix that are worked on together, and that one rank works on: enough for products with them to run at full speed.
public let rowsOfABlock = 256

/// `count` items in parts of at most `size`: the ranges of the parts, in order.
public func parts(of count: Int, size: Int) -> [Range<Int>] {
  stride(from: 0, to: count, by: max(1, size)).map { $0..<min(count, $0 + max(1, size)) }
}
