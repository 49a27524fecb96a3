import EspalierCore
import EspalierIO

/// What a job needs if several ranks run it, each on a host like this one.
public struct RankPlan: Sendable {
  public let ranks: Int
  /// The most memory that a rank needs.
  public private(set) var peakMemory = 0
  /// Bytes of sums and of rows that the ranks send each other.
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
    // Each rank hashes its part of the checkpoint.
    var reading = Work(readBytes: needs.tensorBytes(.all))
    reading.hashedBytes = reading.readBytes
    alone += rates?.seconds(reading) ?? 0
    together += (rates?.seconds(reading) ?? 0) / Double(ranks)
    var scheduler = Scheduler(graph: graph)
    let digest = SHA256.digest(of: "")
    loop: while true {
      switch scheduler.next() {
      case .lookUp(let unit): scheduler.missing(unit)
      case .run(let candidates):
        let unit = graph.units[candidates[0]]
        let units = ranks > 1 && unit.kind == .mask ? candidates : needs.together(candidates)
        peakMemory = max(peakMemory, needs.heldBytes + needs.memory(needs.together(candidates)))
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
          let shares = needs.shares(of: units, ranks: ranks)
          let bytes = needs.sentRowBytes(units, shares)
          sentBytes += bytes
          var loads = [Double](repeating: 0, count: ranks)
          for (index, share) in shares.enumerated() {
            let all = seconds[index]
            let repeated = rates?.seconds(needs.repeatedWork(units[index]) ?? Work()) ?? 0
            let committing = rates?.seconds(own[index].outside) ?? 0
            for rank in 0..<ranks where share.involves(rank) {
              loads[rank] += repeated + sharedSeconds / Double(units.count)
              loads[rank] += share.part(of: rank) * (all - repeated - committing)
            }
            loads[share.owner] += committing
          }
          together += (loads.max() ?? 0) + Double(bytes) / network
        } else {
          let isShared = job.recipe.entries[unit.entry].role.output?.isShared ?? false
          together += seconds.reduce(sharedSeconds, +) / Double(isShared ? ranks : 1)
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
  /// Who works on units that are made together, so that each rank has about the same to do.
  func shares(of units: [Int], ranks: Int) -> [RowShares] {
    let unit = graph.units[units[0]]
    guard unit.goesInShards || unit.kind == .mask else { return units.map { _ in RowShares(owner: 0) } }
    let lines = units.compactMap(line)
    if lines.count == units.count { return RowShares.cut(lines, ranks: ranks) }
    // A rank without windows sees no sums.
    let owning = unit.goesInShards ? min(ranks, windows.count) : ranks
    let owners = Owners.of(units.map { MachineRates.typical.seconds(work($0)) }, ranks: owning)
    return zip(units, owners).map { unit, owner in
      RowShares(owner: owner, bounds: rows(of: unit).map { [0, $0] } ?? [])
    }
  }

  /// A unit whose rows may be shared; nil for others.
  private func line(_ unit: Int) -> RowShares.Line? {
    guard let rows = rows(of: unit), var repeated = repeatedWork(unit) else { return nil }
    let rates = MachineRates.typical
    let shared = rates.seconds(work(unit)) - rates.seconds(repeated)
    // Each rank reads the factor, and waits for others.
    repeated.readBytes += sizes(graph.units[unit]).factorBytes
    repeated.commits += 1
    let blocks = max(1, (rows + rowsOfABlock - 1) / rowsOfABlock)
    return RowShares.Line(rows: rows, repeated: rates.seconds(repeated), block: shared / Double(blocks))
  }

  private func rows(of unit: Int) -> Int? { graph.units[unit].matrix?.rows }

  /// What each rank has to do that has some of a matrix's rows; nil if they cannot be shared.
  func repeatedWork(_ unit: Int) -> Work? {
    let unit = graph.units[unit]
    guard unit.kind == .mask else { return nil }
    return job.recipe.entries[unit.entry].role.matrix?.repeatedWork(sizes(unit))
  }

  /// Bytes of masks and weights that helpers send to the owners of matrices.
  func sentRowBytes(_ units: [Int], _ shares: [RowShares]) -> Int {
    zip(units, shares).reduce(0) { sum, pair in
      let (unit, share) = pair
      return share.helpers.reduce(sum) {
        $0 + artifactBytes(unit) / max(1, rows(of: unit) ?? 1) * share.rows(of: $1).count
      }
    }
  }

  /// Bytes of sums that go from one rank to another while units stream together.
  func sentBytes(_ units: [Int], ranks: Int) -> Int {
    guard windows.count > 1 else { return 0 }
    return zip(units, shares(of: units, ranks: ranks)).reduce(0) { sum, pair in
      let unit = graph.units[pair.0]
      guard let stage = job.recipe.entries[unit.entry].role.site else { return sum }
      let foreign = (0..<windows.count).filter { $0 % ranks != pair.1.owner }.count
      return sum + foreign * (stage.sumBytes(sizes(unit)) ?? 0)
    }
  }
}
