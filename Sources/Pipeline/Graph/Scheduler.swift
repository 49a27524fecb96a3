import EspalierCore
import HeapModule

/// Decides what a run does next: a pure state machine over a ``UnitGraph`` that never touches a file.
///
/// Units are looked up in order. A missing unit runs as soon as its inputs are there; inputs whose bytes were deleted are made again
/// first. Units of one pass run together. Bytes of transient units are deleted when all their readers are known.
///
/// A graph may have a hundred thousand units, so each step looks only at the units that it changes and at their inputs.
struct Scheduler {
  enum Action: Equatable {
    /// Compute the key of the unit and say whether it is known: ``found(_:digest:isPresent:)`` or ``missing(_:)``.
    case lookUp(Int)
    /// Run the first of these and as many others as wanted, and report each with ``committed(_:digest:)``.
    case run([Int])
    /// Delete the bytes of the unit.
    case release(Int)
    case finished
  }

  private enum State: Equatable {
    case unknown
    case missing
    case known(Digest, isPresent: Bool)
  }

  private let graph: UnitGraph
  private var states: [State]
  /// All units before this one are known.
  private var cursor = 0
  /// The missing unit that is made next, with everything that has to be made again for it.
  private var route = Route()
  /// Whether a unit is on the route and not made yet.
  private var isNeeded: [Bool]
  /// For each unit, how many of its readers still need its bytes: those that are not known, or on the route.
  private var wanting: [Int]
  /// Transient units that may no longer be needed; this is checked when one is taken out.
  private var spent = Heap<Int>()
  /// Units that were made again with different bytes.
  private var changed: Set<Int> = []
  /// Units that changed more than once. They are only deleted at the end: the run could alternate between two contents forever.
  private var held: Set<Int> = []
  /// How many units were looked at, for a test of the complexity.
  private(set) var visits = 0

  /// What has to be made for a missing unit.
  private struct Route {
    /// Nil if the route has to be found again.
    var target: Int?
    /// What has to be made, in order; the target is last.
    var units: [Int] = []
    /// Index of the first unit that is not made yet.
    var position = 0
    /// Companions of the unit at the position, and how many of them are looked up.
    var companions: [Int]?
    var lookedUp = 0
  }

  init(graph: UnitGraph) {
    self.graph = graph
    states = [State](repeating: .unknown, count: graph.units.count)
    isNeeded = [Bool](repeating: false, count: graph.units.count)
    wanting = graph.readers.map(\.count)
  }

  /// The content digest of a unit, once it is known.
  func digest(_ unit: Int) -> Digest? {
    if case .known(let digest, _) = states[unit] { digest } else { nil }
  }

  mutating func next() -> Action {
    // This also finds what an interrupted run left.
    if let unit = nextReleasable() { return .release(unit) }
    while cursor < states.count {
      visits += 1
      switch states[cursor] {
      case .unknown: return .lookUp(cursor)
      case .missing: return make(cursor)
      case .known: cursor += 1
      }
    }
    let free = held.sorted()
    held = []
    for unit in free { spent.insert(unit) }
    return nextReleasable().map(Action.release) ?? .finished
  }

  /// The next step towards a missing unit. Inputs whose bytes are gone come first, in the order of the graph.
  private mutating func make(_ unit: Int) -> Action {
    if route.target != unit { plan(unit) }
    while route.position < route.units.count, !isNeeded[route.units[route.position]] { route.position += 1 }
    let first = route.units[route.position]
    let companions = route.companions ?? companions(of: first)
    route.companions = companions
    while route.lookedUp < companions.count {
      visits += 1
      let companion = companions[route.lookedUp]
      if states[companion] == .unknown { return .lookUp(companion) }
      route.lookedUp += 1
    }
    return .run([first] + companions.filter { states[$0] == .missing || isNeeded[$0] })
  }

  /// Finds everything that has to be made for a missing unit.
  private mutating func plan(_ unit: Int) {
    leaveRoute()
    route.target = unit
    setNeeded(unit, true)
    var open = [unit]
    while let reader = open.popLast() {
      route.units.append(reader)
      for input in graph.units[reader].inputs where !isPresent(input) && !isNeeded[input] {
        setNeeded(input, true)
        open.append(input)
      }
    }
    route.units.sort()
  }

  private mutating func leaveRoute() {
    for unit in route.units where isNeeded[unit] { setNeeded(unit, false) }
    route = Route()
  }

  mutating func found(_ unit: Int, digest: Digest, isPresent: Bool) {
    set(unit, .known(digest, isPresent: isPresent))
  }

  mutating func missing(_ unit: Int) { set(unit, .missing) }

  mutating func committed(_ unit: Int, digest: Digest) {
    route.companions = nil
    route.lookedUp = 0
    if let before = self.digest(unit), before != digest {
      forgetReaders(of: unit)
      // The new keys may be known, so that nothing on the route is needed.
      leaveRoute()
      if !changed.insert(unit).inserted, graph.units[unit].isTransient { held.insert(unit) }
    }
    setNeeded(unit, false)
    if unit == route.target { route.target = nil }
    set(unit, .known(digest, isPresent: true))
  }

  mutating func released(_ unit: Int) {
    guard let digest = digest(unit) else { return }
    set(unit, .known(digest, isPresent: false))
    // Bytes that are needed were damaged: they have to be made again, too. The units on the route stay on it until then.
    if wanting[unit] > 0 { route.target = nil }
  }

  private func isPresent(_ unit: Int) -> Bool {
    if case .known(_, true) = states[unit] { true } else { false }
  }

  /// Units of the same pass whose inputs are all there.
  private mutating func companions(of unit: Int) -> [Int] {
    guard let pass = graph.units[unit].pass, let units = graph.passes[pass] else { return [] }
    visits += units.count
    return units.filter { $0 != unit && graph.units[$0].inputs.allSatisfy(isPresent) }
  }

  // MARK: - Bytes that are no longer needed

  /// The first transient unit whose bytes are there and known to be no longer needed.
  private mutating func nextReleasable() -> Int? {
    while let unit = spent.min {
      visits += 1
      if isReleasable(unit) { return unit }
      spent.removeMin()
    }
    return nil
  }

  private func isReleasable(_ unit: Int) -> Bool {
    wanting[unit] == 0 && isPresent(unit) && !held.contains(unit)
  }

  private mutating func set(_ unit: Int, _ state: State) {
    let wanted = wants(unit)
    states[unit] = state
    changeWanting(unit, wanted)
    noteSpent(unit)
  }

  private mutating func setNeeded(_ unit: Int, _ needed: Bool) {
    let wanted = wants(unit)
    isNeeded[unit] = needed
    changeWanting(unit, wanted)
  }

  /// Whether a unit still needs the bytes of its inputs, as far as is known.
  private func wants(_ unit: Int) -> Bool { digest(unit) == nil || isNeeded[unit] }

  private mutating func changeWanting(_ unit: Int, _ before: Bool) {
    let now = wants(unit)
    guard now != before else { return }
    visits += graph.units[unit].inputs.count
    for input in graph.units[unit].inputs {
      wanting[input] += now ? 1 : -1
      noteSpent(input)
    }
  }

  private mutating func noteSpent(_ unit: Int) {
    if graph.units[unit].isTransient, isReleasable(unit) { spent.insert(unit) }
  }

  // MARK: - Changed bytes

  /// Has everything looked up again that was made from the old bytes of a unit.
  private mutating func forgetReaders(of unit: Int) {
    var open = [unit]
    while let changed = open.popLast() {
      for reader in graph.readers[changed] where states[reader] != .unknown {
        set(reader, .unknown)
        cursor = min(cursor, reader)
        open.append(reader)
      }
    }
  }
}
