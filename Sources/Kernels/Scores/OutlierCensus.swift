import EspalierCore

/// The distribution of the saliencies `|W_ij| sqrt(G_jj)` of some matrices: their sum, and how many are above any value.
///
/// There is a count for each value of the 15 bits after the sign of the f32, so that values are known to 1/128 of themselves.
public struct OutlierCensus: Sendable {
  public static let bins = 1 << 15

  public private(set) var sum = 0.0
  public private(set) var count = 0
  /// Saliencies in each bin, in the order of their size.
  public private(set) var counts: [Int]

  /// No saliencies yet.
  public init() { counts = [Int](repeating: 0, count: Self.bins) }

  /// What was counted earlier; nil if there is not one count for each bin, or one is negative.
  public init?(sum: Double, counts: [Int]) {
    guard counts.count == Self.bins, counts.allSatisfy({ $0 >= 0 }), sum >= 0, sum.isFinite else {
      return nil
    }
    self.sum = sum
    self.counts = counts
    count = counts.reduce(0, +)
  }

  /// Counts one matrix.
  ///
  /// - Parameter diagonal: `G_jj`, one for each column.
  public init(_ weight: LinearWeight, diagonal: [Double]) {
    self.init()
    precondition(diagonal.count == weight.columns)
    let scale = diagonal.map { Float($0.squareRoot()) }
    var row = Buffer<Float>(count: weight.columns)
    for index in 0..<weight.rows {
      var loaded = row.mutableSpan
      weight.load(index..<index + 1, into: &loaded)
      for column in 0..<weight.columns {
        let value = abs(row[column]) * scale[column]
        sum += Double(value)
        counts[Int(value.bitPattern >> 16) & (Self.bins - 1)] += 1
      }
    }
    count = weight.rows * weight.columns
  }

  /// Bytes that counting a matrix takes, the counts included.
  public static func workingSet(columns: Int) -> Int { bins * MemoryLayout<Int>.stride + columns * 4 }

  public mutating func merge(_ other: OutlierCensus) {
    sum += other.sum
    count += other.count
    for bin in counts.indices { counts[bin] += other.counts[bin] }
  }

  /// The share of saliencies above `times` their mean: the layer's outlier distribution of OWL (arXiv 2310.05175, section 3).
  public func shareAbove(_ times: Double) -> Double {
    guard count > 0, sum > 0 else { return 0 }
    let threshold = Float(times * sum / Double(count))
    guard threshold < .greatestFiniteMagnitude / 2 else { return 0 }
    let bin = Int(threshold.bitPattern >> 16)
    let low = Float(bitPattern: UInt32(bin) << 16)
    let high = Float(bitPattern: UInt32(bin + 1) << 16)
    let part = Double((high - threshold) / (high - low))
    return (Double(counts[(bin + 1)...].reduce(0, +)) + part * Double(counts[bin])) / Double(count)
  }
}
