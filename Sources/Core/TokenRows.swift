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
  /// The size of each row's hidden states, to which the site's outputs are added: the root of their mean square. Nil if it is not asked
  /// for.
  public private(set) var streamSizes: [Float]?

  public init(windows: Range<Int>, length: Int, tokens: [Int32]? = nil) {
    self.windows = windows
    self.length = length
    self.tokens = tokens
  }

  public var count: Int { tokens?.count ?? windows.count * length }

  /// The same rows, with the windows counted from `first` on.
  public func shifted(by first: Int) -> TokenRows {
    var rows = TokenRows(
      windows: windows.lowerBound + first..<windows.upperBound + first, length: length, tokens: tokens)
    rows.streamSizes = streamSizes
    return rows
  }

  /// The same rows with the sizes of their hidden states.
  ///
  /// - Parameter sizes: of all tokens from window 0 on; nil leaves the rows as they are.
  public func with(streamSizes sizes: [Float]?) -> TokenRows {
    guard let sizes else { return self }
    let first = windows.lowerBound * length
    var rows = self
    rows.streamSizes =
      tokens.map { $0.map { sizes[first + Int($0)] } } ?? Array(sizes[first..<first + count])
    return rows
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
