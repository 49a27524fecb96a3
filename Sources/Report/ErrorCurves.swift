import EspalierCore
import EspalierPipeline
import Glibc

/// The output error before and after, block by block, one small picture for each kind of matrix. Errors are on a logarithmic scale,
/// which is the same for all kinds.
struct ErrorCurves {
  struct Panel {
    /// The kind of matrix, as HTML.
    let name: String
    let svg: String
  }

  private struct Curve {
    let kind: String
    /// Sums over the matrices of a block.
    var before: [Int: Double] = [:]
    var after: [Int: Double] = [:]
  }

  let panels: [Panel]

  init(_ report: RunReport) {
    var curves = report.kinds.map { Curve(kind: $0) }
    let index = Dictionary(curves.enumerated().map { ($1.kind, $0) }, uniquingKeysWith: { first, _ in first })
    for matrix in report.matrices {
      guard let block = matrix.place.block, let place = index[matrix.place.kind],
        let before = matrix.firstLoss, let after = matrix.lastLoss
      else { continue }
      curves[place].before[block, default: 0] += before
      curves[place].after[block, default: 0] += after
    }
    curves.removeAll { $0.before.isEmpty }
    let all = curves.flatMap { Array($0.before.values) + Array($0.after.values) }.filter {
      $0 > 0 && $0.isFinite
    }
    let blocks = Set(curves.flatMap(\.before.keys))
    guard let least = all.min(), let most = all.max(), let first = blocks.min(), let last = blocks.max()
    else {
      panels = []
      return
    }
    let middle = (log10(least) + log10(most)) / 2
    // At least one power of ten is on the scale.
    let half = max((log10(most) - log10(least)) / 2 + 0.08, 0.5)
    let scale = (least: middle - half, most: middle + half)
    panels = curves.map { curve in
      Panel(name: HTML.breakable(curve.kind), svg: Self.svg(curve, scale, first...last))
    }
  }

  private static func svg(
    _ curve: Curve, _ scale: (least: Double, most: Double), _ blocks: ClosedRange<Int>
  ) -> String {
    let size = (width: 168.0, height: 112.0)
    let (left, right, top, bottom) = (32.0, 6.0, 6.0, 18.0)
    var svg = SVG(
      width: size.width, height: size.height, label: "Error of \(curve.kind) before and after, by block")
    func x(_ block: Int) -> Double {
      let span = Double(max(1, blocks.upperBound - blocks.lowerBound))
      return left + Double(block - blocks.lowerBound) / span * (size.width - left - right)
    }
    func y(_ error: Double) -> Double {
      let share = (log10(error) - scale.least) / (scale.most - scale.least)
      return size.height - bottom - min(1, max(0, share)) * (size.height - top - bottom)
    }
    svg.line(
      from: (left, size.height - bottom), to: (size.width - right, size.height - bottom), style: "grid")
    let powers = Int(scale.least.rounded(.up))...Int(scale.most.rounded(.down))
    for power in powers {
      let place = y(pow(10, Double(power)))
      svg.line(from: (left, place), to: (size.width - right, place), style: "grid")
      // At most about four labels.
      guard (powers.upperBound - power) % max(1, (powers.count + 3) / 4) == 0 else { continue }
      svg.words(Self.power(power), x: left - 5, y: place + 3.5, anchor: .end, style: "axis")
    }
    svg.words("\(blocks.lowerBound)", x: left, y: size.height - 4, anchor: .middle, style: "axis")
    if blocks.count > 1 {
      svg.words(
        "\(blocks.upperBound)", x: size.width - right, y: size.height - 4, anchor: .middle, style: "axis")
    }
    for (values, style) in [(curve.before, "before"), (curve.after, "after")] {
      let points = values.filter { $0.value > 0 && $0.value.isFinite }.sorted { $0.key < $1.key }
      svg.lines(points.map { (x($0.key), y($0.value)) }, style: style)
      for point in points {
        svg.dot(
          x: x(point.key), y: y(point.value), radius: blocks.count > 24 ? 1.2 : 2.2, style: style + "Dot",
          title: "block \(point.key), \(style): \(Figures.number(point.value))")
      }
    }
    return svg.text
  }

  /// `0.01`, `1000`, `1e6`.
  private static func power(_ exponent: Int) -> String {
    switch exponent {
    case 0...3: "1" + String(repeating: "0", count: exponent)
    case -3..<0: fixed(pow(10, Double(exponent)), -exponent)
    default: "1e\(exponent)"
    }
  }
}
