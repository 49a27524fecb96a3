import EspalierCore

/// Decides what a run does next: a pure state machine over a ``UnitGraph``, which never touches a file.
///
/// Units are looked up in order; a unit that is missing runs as soon as its inputs are there, and inputs whose bytes were freed are
/// made again first. Units of one pass run together. Bytes of transient units are freed when all their readers are known.
struct Scheduler {
  enum Action: Equatable {
    /// Compute the key of the unit and say whether it is known: ``found(_:digest:isPresent:)`` or ``missing(_:)``.
    case lookUp(Int)
    /// Run any number of these, at least the first, and say so with ``committed(_:digest:)``.
    case run([Int])
    /// Free the bytes of the unit.
    case release(Int)
    case finished
  }

  private enum State: Equatable {
    case unknown
    case missing
    case known(Digest, isPresent: Bool)
  }

  private let graph: UnitGraph
  private let transients: [Int]
  private var states: [State]
  /// Every unit before it is known.
  private var cursor = 0
  /// The missing unit that is being worked towards, with all that has to be made again for it.
  private var needed: Set<Int> = []
  /// Units whose bytes were others when they were made again.
  private var changed: Set<Int> = []
  /// Units that changed more than once: freed at the end only, or the run could go in circles between two contents.
  private var held: Set<Int> = []

  init(graph: UnitGraph) {
    self.graph = graph
    transients = graph.units.indices.filter { graph.units[$0].isTransient }
    states = [State](repeating: .unknown, count: graph.units.count)
  }

  /// The content digest of a unit, once it is known.
  func digest(_ unit: Int) -> Digest? {
    if case .known(let digest, _) = states[unit] { digest } else { nil }
  }

  mutating func next() -> Action {
    // What an earlier run left behind when it was stopped is found here, too.
    if let unit = transients.first(where: isReleasable) { return .release(unit) }
    while cursor < states.count {
      switch states[cursor] {
      case .unknown: return .lookUp(cursor)
      case .missing: return make(cursor)
      case .known: cursor += 1
      }
    }
    held = []
    return transients.first(where: isReleasable).map(Action.release) ?? .finished
  }

  /// The next step towards a missing unit: inputs whose bytes are gone come first, in the order of the graph.
  private mutating func make(_ unit: Int) -> Action {
    needed = [unit]
    var first = unit
    var open = [unit]
    while let reader = open.popLast() {
      for input in graph.units[reader].inputs where !isPresent(input) && needed.insert(input).inserted {
        first = min(first, input)
        open.append(input)
      }
    }
    let companions = companions(of: first)
    if let unknown = companions.first(where: { states[$0] == .unknown }) { return .lookUp(unknown) }
    return .run([first] + companions.filter { states[$0] == .missing || needed.contains($0) })
  }

  mutating func found(_ unit: Int, digest: Digest, isPresent: Bool) {
    states[unit] = .known(digest, isPresent: isPresent)
  }

  mutating func missing(_ unit: Int) { states[unit] = .missing }

  mutating func committed(_ unit: Int, digest: Digest) {
    if let before = self.digest(unit), before != digest {
      forgetReaders(of: unit)
      // Perhaps nothing of it is needed under the new keys.
      needed = []
      if !changed.insert(unit).inserted, graph.units[unit].isTransient { held.insert(unit) }
    }
    needed.remove(unit)
    states[unit] = .known(digest, isPresent: true)
  }

  mutating func released(_ unit: Int) {
    if let digest = digest(unit) { states[unit] = .known(digest, isPresent: false) }
  }

  private func isPresent(_ unit: Int) -> Bool {
    if case .known(_, true) = states[unit] { true } else { false }
  }

  /// Units of the same pass whose inputs are all there.
  private func companions(of unit: Int) -> [Int] {
    guard let pass = graph.units[unit].pass else { return [] }
    return graph.units.indices.filter { other in
      other != unit && graph.units[other].pass == pass && graph.units[other].inputs.allSatisfy(isPresent)
    }
  }

  /// Whether the bytes of a transient unit are of no more use, as far as is known.
  private func isReleasable(_ unit: Int) -> Bool {
    isPresent(unit) && !held.contains(unit)
      && graph.readers[unit].allSatisfy { digest($0) != nil && !needed.contains($0) }
  }

  /// A unit that was made again gave other bytes: everything that was made from the old ones is looked up anew.
  private mutating func forgetReaders(of unit: Int) {
    for reader in graph.readers[unit] where states[reader] != .unknown {
      states[reader] = .unknown
      cursor = min(cursor, reader)
      forgetReaders(of: reader)
    }
  }
}
