import EspalierReport

/// Two runs side by side as text.
enum ComparisonText {
  static func show(_ comparison: RunComparison) {
    Terminal.out("A  \(Terminal.clean(comparison.titles.first))  \(Terminal.clean(comparison.names.first))")
    Terminal.out("B  \(Terminal.clean(comparison.titles.second))  \(Terminal.clean(comparison.names.second))")
    for group in comparison.groups {
      Terminal.out("")
      Terminal.table(
        [group.name, "A", "B", "B against A"],
        group.rows.map {
          [Terminal.clean($0.name), $0.shown($0.first), $0.shown($0.second), $0.shownChange]
        })
    }
  }
}
