/// The calibration windows in shards of nearly the same size, each of consecutive windows.
///
/// Every shard has its own sums, which are added in the order of the shards. So a result depends on their number, and not on who
/// computes which.
public struct WindowShards: Sendable, Hashable {
  /// All windows.
  public let windows: Int
  /// The number of shards.
  public let count: Int

  public init(windows: Int, count: Int) {
    self.windows = windows
    self.count = max(1, count)
  }

  /// The windows of a shard.
  public subscript(shard: Int) -> Range<Int> {
    windows * shard / count..<windows * (shard + 1) / count
  }

  /// Windows of the largest shard.
  public var most: Int { (windows + count - 1) / count }
}
