import EspalierCore
import EspalierPipeline

/// How much of the first masks' error was removed, by block and kind of matrix: darker is more, and the other colour is an error that
/// grew.
struct HeatMap {
  /// Mean reductions, one for each block of each kind; nil if there is no matrix.
  private let values: [[Double?]]
  private let kinds: [String]
  private let blocks: [Int]

  /// Nil if no stage changed an error.
  init?(_ report: RunReport) {
    var cells: [String: [Int: [Double]]] = [:]
    for matrix in report.matrices {
      guard let reduction = matrix.reduction, let block = matrix.place.block else { continue }
      cells[matrix.place.kind, default: [:]][block, default: []].append(reduction)
    }
    guard !cells.isEmpty else { return nil }
    let blocks = Set(cells.values.flatMap(\.keys)).sorted()
    kinds = report.kinds.filter { cells[$0] != nil }
    self.blocks = blocks
    values = kinds.map { kind in
      blocks.map { block in
        cells[kind]?[block].map { $0.reduce(0, +) / Double($0.count) }
      }
    }
  }

  /// The largest and the smallest value.
  var range: (least: Double, most: Double) {
    let all = values.joined().compactMap(\.self)
    return (all.min() ?? 0, all.max() ?? 0)
  }

  var svg: String {
    let label = min(190, 7.4 * Double(kinds.map(\.count).max() ?? 0) + 14)
    let cell = (width: max(15, min(76, 780 / Double(blocks.count + 1))), height: 27.0)
    let showsNumbers = cell.width >= 34
    let top = 22.0
    let meanPlace = label + Double(blocks.count) * cell.width + 10
    let width = meanPlace + 58
    var svg = SVG(
      width: width, height: top + Double(kinds.count) * cell.height + 2,
      label: "Share of the first masks' error that was removed, by block and kind of matrix")
    let every = max(1, Int((26 / cell.width).rounded(.up)))
    for (column, block) in blocks.enumerated() where column % every == 0 {
      svg.words(
        "\(block)", x: label + (Double(column) + 0.5) * cell.width, y: 14, anchor: .middle, style: "axis")
    }
    svg.words("block", x: label - 10, y: 14, anchor: .end, style: "axis")
    svg.words("mean", x: meanPlace + 24, y: 14, anchor: .middle, style: "axis")
    // The scale ends at the largest value, so that differences show; the numbers tell the size.
    let largest = max(range.most, -range.least, 0.01)
    for (row, kind) in kinds.enumerated() {
      let y = top + Double(row) * cell.height
      svg.words(Self.shortened(kind), x: label - 10, y: y + 17.5, anchor: .end, style: "label")
      for (column, value) in values[row].enumerated() {
        guard let value else { continue }
        let title = "\(kind), block \(blocks[column]): \(Figures.percent(value)) of the error removed"
        let x = label + Double(column) * cell.width
        let strength = min(1, abs(value) / largest)
        svg.rectangle(
          x: x + 1, y: y + 1, width: cell.width - 2, height: cell.height - 2, radius: 3,
          style: value < 0 ? "worse" : "better", opacity: 0.08 + 0.92 * strength, title: title)
        guard showsNumbers else { continue }
        svg.words(
          fixed(value * 100, 0), x: x + cell.width / 2, y: y + 17.5, anchor: .middle,
          style: strength > 0.85 ? "on" : "off")
      }
      let known = values[row].compactMap(\.self)
      svg.words(
        Figures.percent(known.reduce(0, +) / Double(max(1, known.count))), x: meanPlace + 48, y: y + 17.5,
        anchor: .end, style: "label")
    }
    return svg.text
  }

  /// The end of a long name, which tells kinds apart.
  static func shortened(_ name: String, to limit: Int = 24) -> String {
    name.count <= limit ? name : "…" + name.suffix(limit - 1)
  }
}
