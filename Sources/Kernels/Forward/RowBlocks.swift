import EspalierCore

/// Rows that one thread takes at a time in elementwise kernels.
private let rowsAtATime = 64

extension Device {
  /// Calls `body` for 64 rows at a time; threads share the blocks.
  func forEachBlock(ofRows rows: Int, _ body: @Sendable (Range<Int>) -> Void) {
    let blocks = EspalierCore.parts(of: rows, size: rowsAtATime)
    forEach(blocks.count) { body(blocks[$0]) }
  }
}
