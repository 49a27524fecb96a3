import EspalierCore
import Glibc

/// Ways to distribute a sparsity over matrices. The mean over all weights is the sparsity that was asked for; if a matrix can only have
/// some sparsities, as near to it as the steps allow.
enum SparsityAllocation {
  /// OWL (arXiv 2310.05175, section 3.2): the density grows with the share of outliers, over a span of `2 range`.
  ///
  /// - Parameters:
  ///   - shares: the share of outliers in the block of each matrix.
  ///   - weights: weights of each matrix.
  static func byOutliers(shares: [Double], weights: [Double], sparsity: Double, range: Double) -> [Double] {
    guard let least = shares.min(), let most = shares.max(), most > least else {
      return shares.map { _ in sparsity }
    }
    let rises = shares.map { ($0 - least) / (most - least) * 2 * range }
    let mean = zip(rises, weights).reduce(0) { $0 + $1.0 * $1.1 } / weights.reduce(0, +)
    return rises.map { min(1, max(0, sparsity - ($0 - mean))) }
  }

  /// The sparsities between the first and the last point with the smallest sum of errors.
  ///
  /// Goes up the lower convex hulls of all error curves, always taking the segment that costs least per weight.
  ///
  /// - Parameters:
  ///   - points: sparsities at which errors were measured, ascending.
  ///   - errors: for each matrix, its error at every point.
  static func leastError(points: [Double], errors: [[Double]], weights: [Double], sparsity: Double)
    -> [Double]
  {
    guard let first = points.first else { return weights.map { _ in sparsity } }
    var sparsities = weights.map { _ in first }
    var remaining = weights.reduce(0) { $0 + $1 * (sparsity - first) }
    for segment in segments(points, errors, weights) where remaining > 0 {
      let part = min(1, remaining / segment.size)
      sparsities[segment.matrix] = segment.from + part * (segment.to - segment.from)
      remaining -= part * segment.size
    }
    return sparsities
  }

  /// A step of a matrix from one sparsity to a higher one: the weights that it prunes, and what each of them costs.
  private typealias Segment = (matrix: Int, from: Double, to: Double, size: Double, price: Double)

  /// The segments of the hulls of all matrices, the cheapest first. The slopes of a hull increase, so those of a matrix stay in order.
  private static func segments(_ points: [Double], _ errors: [[Double]], _ weights: [Double]) -> [Segment] {
    let all = errors.enumerated().flatMap { matrix, errors -> [Segment] in
      let hull = lowerHull(Array(zip(points, errors)))
      return zip(hull, hull.dropFirst()).map { a, b in
        let size = (b.0 - a.0) * weights[matrix]
        return (matrix, a.0, b.0, size, (b.1 - a.1) / size)
      }
    }
    return all.sorted { ($0.price, $0.matrix, $0.from) < ($1.price, $1.matrix, $1.from) }
  }

  /// The same for matrices that may be no further than `range` from their mean, which may be anywhere between the points. Between
  /// points, errors grow by the same factor with each step.
  static func leastError(
    points: [Double], errors: [[Double]], weights: [Double], sparsity: Double, range: Double
  ) -> [Double] {
    let (lowest, highest) = (max(0, sparsity - range), min(1, sparsity + range))
    let steps = 32
    let near = (0...steps).map { lowest + (highest - lowest) * Double($0) / Double(steps) }
    let interpolated = errors.map { errors in near.map { interpolate(points, errors, at: $0) } }
    return leastError(points: near, errors: interpolated, weights: weights, sparsity: sparsity)
  }

  private static func interpolate(_ points: [Double], _ errors: [Double], at sparsity: Double) -> Double {
    let next = min(points.count - 1, max(1, points.firstIndex { $0 >= sparsity } ?? points.count))
    let (a, b) = (errors[next - 1], errors[next])
    let part = (sparsity - points[next - 1]) / (points[next] - points[next - 1])
    return a > 0 && b > 0 ? a * pow(b / a, part) : a + (b - a) * part
  }

  /// The same if a matrix can have the sparsity of a point only: takes the step, to any higher point, that costs least per weight,
  /// among those of which at least half fits.
  static func leastErrorInSteps(points: [Double], errors: [[Double]], weights: [Double], sparsity: Double)
    -> [Double]
  {
    guard let first = points.first else { return weights.map { _ in sparsity } }
    var sparsities = weights.map { _ in first }
    var remaining = weights.reduce(0) { $0 + $1 * (sparsity - first) }
    for segment in segments(points, errors, weights) {
      guard segment.size <= remaining else { break }
      sparsities[segment.matrix] = segment.to
      remaining -= segment.size
    }
    // What is left is less than a segment, so few steps follow.
    while remaining > 0 {
      var best: Segment?
      for (matrix, from) in sparsities.enumerated() {
        guard let place = points.firstIndex(of: from) else { continue }
        for next in points.indices.dropFirst(place + 1) {
          let size = (points[next] - from) * weights[matrix]
          guard size <= 2 * remaining else { break }
          let price = (errors[matrix][next] - errors[matrix][place]) / size
          if price < best?.price ?? .infinity { best = (matrix, from, points[next], size, price) }
        }
      }
      guard let best else { break }
      sparsities[best.matrix] = best.to
      remaining -= best.size
    }
    return sparsities
  }

  /// The points that are nearest to the sparsities that are wanted, by the sum of squares over all weights.
  static func nearest(_ wanted: [Double], points: [Double], weights: [Double], sparsity: Double) -> [Double] {
    let errors = zip(wanted, weights).map { wanted, weight in
      points.map { weight * ($0 - wanted) * ($0 - wanted) }
    }
    return leastErrorInSteps(points: points, errors: errors, weights: weights, sparsity: sparsity)
  }

  private static func lowerHull(_ points: [(Double, Double)]) -> [(Double, Double)] {
    var hull: [(Double, Double)] = []
    for point in points where point.0 > hull.last?.0 ?? -1 {
      while hull.count >= 2, let last = hull.last {
        let before = hull[hull.count - 2]
        // A point above the line between its neighbours is not on the hull.
        guard (last.1 - before.1) * (point.0 - before.0) >= (point.1 - before.1) * (last.0 - before.0) else {
          break
        }
        hull.removeLast()
      }
      hull.append(point)
    }
    return hull
  }
}
