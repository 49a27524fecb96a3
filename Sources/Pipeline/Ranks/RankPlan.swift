import EspalierCore
import EspalierIO

/// What a job needs if several ranks run it, each on a host like this one.
public struct RankPlan: Sendable {
  public let ranks: Int
  /// Bytes of sums that the ranks send each other.
  public private(set) var sentBytes = 0
  /// The most bytes of hidden states in the scratch folder of a rank.
  public private(set) var scratchBytes = 0
  /// How long it takes, and how long one rank alone takes; nil if no rates are known.
  public private(set) var seconds: Double?
  public private(set) var secondsAlone: Double?

  /// The part of the ranks' time in which they do something.
  public var efficiency: Double? {
    guard let seconds, let secondsAlone, seconds > 0 else { return nil }
    return secondsAlone / seconds / Double(ranks)
  }

  /// - Parameters:
  ///   - rates: those of each host.
  ///   - network: bytes per second that a host sends or receives.
  /// - Throws: a usage error if the stages cannot be run by several ranks.
  public init(_ job: Job, ranks: Int, rates: MachineRates?, network: Double) throws {
    self.ranks = ranks
    let graph = try UnitGraph(recipe: job.recipe, model: job.model, ranks: ranks)
    let needs = UnitNeeds(job, graph)
    try Self.check(job, needs, ranks: ranks)
    var alone = 0.0
    var together = 0.0
    var held = 0
    let shards = needs.windows
    // Rank 0 has the most windows: it has a shard of every round.
    let share =
      Double(stride(from: 0, to: shards.count, by: ranks).reduce(0) { $0 + shards[$1].count })
      / Double(max(1, shards.windows))
    var scheduler = Scheduler(graph: graph)
    let digest = SHA256.digest(of: "")
    loop: while true {
      switch scheduler.next() {
      case .lookUp(let unit): scheduler.missing(unit)
      case .run(let candidates):
        let unit = graph.units[candidates[0]]
        let units = ranks > 1 && unit.kind == .mask ? candidates : needs.together(candidates)
        let (own, shared) = needs.works(together: units)
        let seconds = own.map { rates?.seconds($0) ?? 0 }
        let sharedSeconds = rates?.seconds(shared.work) ?? 0
        alone += seconds.reduce(sharedSeconds, +)
        if unit.goesInShards {
          let bytes = needs.sentBytes(units, ranks: ranks)
          sentBytes += bytes
          together += share * seconds.reduce(sharedSeconds, +) + Double(bytes) / network
          held += units.reduce(0) { $0 + (graph.units[$1].kind == .hidden ? needs.artifactBytes($1) : 0) }
          scratchBytes = max(scratchBytes, Int(share * Double(held)))
        } else if unit.kind == .mask {
          var loads = [Double](repeating: 0, count: ranks)
          for (owner, seconds) in zip(needs.owners(of: units, ranks: ranks), seconds) {
            loads[owner] += seconds + sharedSeconds / Double(units.count)
          }
          together += loads.max() ?? 0
        } else {
          together += seconds.reduce(sharedSeconds, +)
        }
        for unit in units { scheduler.committed(unit, digest: scheduler.digest(unit) ?? digest) }
      case .release(let unit):
        if graph.units[unit].kind == .hidden { held -= needs.artifactBytes(unit) }
        scheduler.released(unit)
      case .finished: break loop
      }
    }
    if rates != nil { (seconds, secondsAlone) = (together, alone) }
  }

  /// - Throws: a usage error if the stages cannot be run by several ranks.
  static func check(_ job: Job, _ needs: UnitNeeds, ranks: Int) throws {
    guard ranks > 1, needs.windows.count > 1 else { return }
    for unit in needs.graph.units where unit.kind == .factor {
      guard job.recipe.entries[unit.entry].role.site?.sumBytes(needs.sizes(unit)) == nil else { return }
      throw EspalierError.usage(
        "\(job.recipe.entries[unit.entry].id) cannot add up the sums of several ranks as it is set (it keeps inputs); run it with one, or change that."
      )
    }
  }
}

extension UnitNeeds {
  /// The ranks that write the artifacts of units which are made together: each has about the same work.
  func owners(of units: [Int], ranks: Int) -> [Int] {
    let unit = graph.units[units[0]]
    guard unit.goesInShards || unit.kind == .mask else { return units.map { _ in 0 } }
    // A rank without windows sees no sums.
    let owning = unit.goesInShards ? min(ranks, windows.count) : ranks
    return Owners.of(units.map { MachineRates.typical.seconds(work($0)) }, ranks: owning)
  }

  /// Bytes of sums that go from one rank to another while units stream together.
  func sentBytes(_ units: [Int], ranks: Int) -> Int {
    guard windows.count > 1 else { return 0 }
    return zip(units, owners(of: units, ranks: ranks)).reduce(0) { sum, pair in
      let unit = graph.units[pair.0]
      guard let stage = job.recipe.entries[unit.entry].role.site else { return sum }
      let foreign = (0..<windows.count).filter { $0 % ranks != pair.1 }.count
      return sum + foreign * (stage.sumBytes(sizes(unit)) ?? 0)
    }
  }
}
