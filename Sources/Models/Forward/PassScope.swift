/// The extent of a pass through a block: the whole block, its mixer, or until a set of sites has been observed.
struct PassScope {
  private let wanted: Set<String>?
  /// Whether the pass ends at ``ModelOutline/Cut/feedForward``.
  let endsAfterMixer: Bool
  private let order: [String: Int]
  private let last: Int

  /// - Parameter wanted: names of sites; nil for the whole block or mixer.
  init(_ wanted: Set<String>?, endsAfterMixer: Bool = false, in block: Blueprint.Block) {
    self.wanted = wanted
    self.endsAfterMixer = endsAfterMixer
    let order = Dictionary(
      block.sites.enumerated().map { ($1.name, $0) }, uniquingKeysWith: { first, _ in first })
    last = wanted.map { $0.compactMap { order[$0] }.max() ?? -1 } ?? .max
    self.order = order
  }

  var isWhole: Bool { wanted == nil }

  /// Whether anything after the site is wanted.
  func continues(after site: String) -> Bool { last > order[site] ?? .max || isWhole }

  /// Whether the inputs of the site are wanted.
  func wants(_ site: String) -> Bool { wanted?.contains(site) ?? true }
}
