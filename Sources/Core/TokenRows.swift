/// Which tokens of the calibration windows the rows of a matrix belong to.
///
/// Most sites see every token; an expert sees those that were routed to it.
public struct TokenRows: Sendable {
  /// The windows, counted from the first of the calibration data.
  public let windows: Range<Int>
  /// Tokens of each window.
  public let length: Int
  /// For each row its token, counted from the first of these windows, in ascending order; nil if the rows are all of them.
  public let tokens: [Int32]?

  public init(windows: Range<Int>, length: Int, tokens: [Int32]? = nil) {
    self.windows = windows
    self.length = length
    self.tokens = tokens
  }

  public var count: Int { tokens?.count ?? windows.count * length }

  /// The same rows, with the windows counted from `first` on.
  public func shifted(by first: Int) -> TokenRows {
    TokenRows(
      windows: windows.lowerBound + first..<windows.upperBound + first, length: length, tokens: tokens)
  }

  /// The rows that belong to each window that has any, in order.
  public var rowsByWindow: [(window: Int, rows: Range<Int>)] {
    guard let tokens else {
      return windows.enumerated().map { ($1, $0 * length..<($0 + 1) * length) }
    }
    var result: [(window: Int, rows: Range<Int>)] = []
    for (row, token) in tokens.enumerated() {
      let window = windows.lowerBound + Int(token) / length
      if let last = result.indices.last, result[last].window == window {
        result[last].rows = result[last].rows.lowerBound..<row + 1
      } else {
        result.append((window, row..<row + 1))
      }
    }
    return result
  }
}
