/// Finds the longest of a set of byte strings at a position of a text.
///
/// The strings are sorted; each further byte of the text narrows the range of those that still match. A search costs at most the
/// length of the longest string at each position, and nothing at positions whose byte begins no string.
struct TokenMatcher: Sendable {
  private let contents: [[UInt8]]
  private let ids: [Int32]
  /// The start of each first byte's strings, and the end of the last.
  private let starts: [Int]

  /// If strings are equal, the smallest id wins; empty strings never match.
  init(_ tokens: [(content: [UInt8], id: Int32)]) {
    let sorted = tokens.filter { !$0.content.isEmpty }.sorted {
      $0.content == $1.content ? $0.id < $1.id : $0.content.lexicographicallyPrecedes($1.content)
    }
    contents = sorted.map(\.content)
    ids = sorted.map(\.id)
    var starts = [Int](repeating: 0, count: 257)
    for content in contents { starts[Int(content[0]) + 1] += 1 }
    for byte in 0..<256 { starts[byte + 1] += starts[byte] }
    self.starts = starts
  }

  var isEmpty: Bool { contents.isEmpty }

  /// The leftmost match from `start` on; the longest one there.
  func firstMatch(in text: Span<UInt8>, from start: Int) -> (id: Int32, range: Range<Int>)? {
    var index = start
    while index < text.count {
      let byte = Int(text[index])
      if starts[byte] < starts[byte + 1], let match = longestMatch(in: text, at: index) {
        return (match.id, index..<index + match.count)
      }
      index += 1
    }
    return nil
  }

  private func longestMatch(in text: Span<UInt8>, at index: Int) -> (id: Int32, count: Int)? {
    var range = starts[Int(text[index])]..<starts[Int(text[index]) + 1]
    var best: (id: Int32, count: Int)?
    var depth = 1
    while !range.isEmpty {
      if contents[range.lowerBound].count == depth { best = (ids[range.lowerBound], depth) }
      guard index + depth < text.count else { break }
      let byte = Int(text[index + depth])
      let low = firstEntry(in: range, atLeast: byte, depth: depth)
      range = low..<firstEntry(in: low..<range.upperBound, atLeast: byte + 1, depth: depth)
      depth += 1
    }
    return best
  }

  private func firstEntry(in range: Range<Int>, atLeast byte: Int, depth: Int) -> Int {
    var low = range.lowerBound
    var high = range.upperBound
    while low < high {
      let middle = (low + high) / 2
      let there = contents[middle].count > depth ? Int(contents[middle][depth]) : -1
      if there < byte { low = middle + 1 } else { high = middle }
    }
    return low
  }
}
