extension Span<UInt8> {
  /// Calls `body` with each extended grapheme cluster of the text, which must be valid UTF-8.
  ///
  /// Between two ASCII characters there is always a boundary, except in CR LF. Only the text between such places goes through the
  /// Swift library.
  func forEachCluster(_ body: (Range<Int>) throws -> Void) rethrows {
    var start = 0
    while start < count {
      var end = start + 1
      while end < count, !isPlainBoundary(end) { end += 1 }
      if end == start + 1 {
        try body(start..<end)
      } else {
        var part: [UInt8] = []
        part.append(extracting(start..<end))
        var cluster = start
        for character in String(decoding: part, as: UTF8.self) {
          let next = cluster + character.utf8.count
          try body(cluster..<next)
          cluster = next
        }
      }
      start = end
    }
  }

  private func isPlainBoundary(_ index: Int) -> Bool {
    self[index - 1] < 0x80 && self[index] < 0x80 && !(self[index - 1] == 0x0D && self[index] == 0x0A)
  }
}
