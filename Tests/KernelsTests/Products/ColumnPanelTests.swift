import Testing

@testable import EspalierKernels

@Suite struct ColumnPanelTests {
  @Test func panelsCoverAllColumnsEvenly() {
    for columns in 0...9000 {
      let panels = columnPanels(of: columns)
      #expect(panels.flatMap { [$0.lowerBound, $0.upperBound] } == bounds(panels, columns))
      let widths = panels.map(\.count)
      #expect(widths.allSatisfy { $0 > 0 && $0 <= columnPanelWidth(of: columns) })
      #expect(columnPanelWidth(of: columns) <= 512)
      // Two threads end together but for the rounding of widths.
      if columns >= 1024 { #expect(panels.count >= 4 && Set(widths.dropLast()).count == 1) }
      if columns >= 256, columns % 64 == 0, columns <= 2048 { #expect(widths.count == 4) }
    }
  }

  /// What the bounds are if every panel begins where the one before it ends.
  private func bounds(_ panels: [Range<Int>], _ columns: Int) -> [Int] {
    let starts = panels.map(\.lowerBound)
    return zip(starts, starts.dropFirst() + [columns]).flatMap { [$0, $1] }
  }
}
