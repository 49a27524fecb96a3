import EspalierCore
import EspalierIO

/// What the units of a job need, by their sizes.
struct UnitNeeds: Sendable {
  let job: Job
  /// Calibration sequences, and tokens of each.
  let samples: Int
  let length: Int
  private let source: (any SourceStage)?
  private let precision: Precision

  init(_ job: Job) {
    self.job = job
    (samples, length) =
      job.recipe.entries.lazy.compactMap { ($0.stage as? any CorpusStage)?.shape }.first ?? (1, 1)
    source = job.recipe.entries.lazy.compactMap { $0.stage as? any SourceStage }.first
    precision = source?.precision(of: job.checkpoint) ?? .f32
  }

  /// The sizes of a unit, with what it may use of `memory`, by default the job's.
  func sizes(_ unit: Unit, memory: Int? = nil) -> UnitSizes {
    let alone = sizes(unit, available: (memory ?? job.memory) - Planner.processBytes)
    guard case .site = unit.role, let source else { return alone }
    return sizes(unit, available: alone.available - source.workingSet(alone).total)
  }

  private func sizes(_ unit: Unit, available: Int) -> UnitSizes {
    let block = unit.block.map { job.model.blocks[$0] }
    var site: ModelOutline.Site?
    var matrix: ModelOutline.Matrix?
    if case .site(let index) = unit.role { site = block?.sites[index] }
    if case .matrix(let found) = unit.role { matrix = found }
    let weight = matrix ?? (block ?? job.model.blocks.first)?.matrices.first
    return UnitSizes(
      model: job.model, role: unit.role, samples: samples, length: length,
      batchTokens: min(Batching.sequences(length: length), max(1, samples)) * length,
      block: block, site: site, matrix: matrix, pattern: unit.pattern, holdOut: unit.holdOut,
      precision: precision,
      weightBytes: weight.flatMap { job.checkpoint.tensors[$0.tensor]?.entry.dtype?.byteCount } ?? 4,
      tensorBytes: tensorBytes(unit.tensors), factorBytes: factorBytes(unit), threads: job.threads,
      available: max(0, available))
  }

  /// Bytes of the factor that a matrix's unit reads.
  private func factorBytes(_ unit: Unit) -> Int {
    let readsFactor = (stage(unit) as? any MatrixStage)?.reads.contains(.factor) ?? true
    guard readsFactor, case .matrix(let matrix) = unit.role, let block = unit.block,
      let entry = job.recipe.entries.firstIndex(where: { $0.stage is any SiteStage }),
      let site = job.model.blocks[block].sites.firstIndex(where: { $0.matrices.contains(matrix) })
    else { return 0 }
    let holdOut = job.recipe.entries.lazy.compactMap { ($0.stage as? any MatrixStage)?.holdOut }.max() ?? 0
    return artifactBytes(
      Unit(
        id: "", entry: entry, role: .site(site), block: block, kind: .factor, inputs: [], tensors: [],
        pass: nil, isTransient: false, holdOut: holdOut))
  }

  /// Bytes of tensors of the checkpoint.
  func tensorBytes(_ names: some Collection<String>) -> Int {
    names.reduce(0) { $0 + (job.checkpoint.tensors[$1]?.entry.range.count ?? 0) }
  }

  /// Bytes that a unit leaves in the work folder.
  func artifactBytes(_ unit: Unit) -> Int { stage(unit).artifactBytes(sizes(unit)) }

  /// What a unit computes by itself.
  func work(_ unit: Unit) -> Work { stage(unit).work(sizes(unit)) }

  // MARK: - Memory

  /// The memory that a unit needs, its source's included.
  func workingSet(_ unit: Unit, memory: Int? = nil) -> WorkingSet {
    let own = stage(unit).workingSet(sizes(unit, memory: memory))
    guard case .site = unit.role, let source else { return own }
    return own + source.workingSet(sizes(unit, available: (memory ?? job.memory) - Planner.processBytes))
  }

  /// Of units that can run now, those that run together: as many sites of a pass as the memory holds, at least one; hidden
  /// states go with the first.
  func together(_ candidates: [Int], _ graph: UnitGraph) -> [Int] {
    guard let first = candidates.first, graph.units[first].pass != nil else {
      return Array(candidates.prefix(1))
    }
    var room = job.memory - Planner.processBytes - workingSet(graph.units[first]).total
    return [first]
      + candidates.dropFirst().filter { candidate in
        let unit = graph.units[candidate]
        guard case .site = unit.role else { return true }
        let needed = stage(unit).workingSet(sizes(unit)).total
        guard needed <= room else { return false }
        room -= needed
        return true
      }
  }

  /// The memory of units that run together.
  func memory(_ units: [Unit]) -> Int {
    guard let first = units.first else { return 0 }
    return units.dropFirst().reduce(workingSet(first).total) { sum, unit in
      guard case .site = unit.role else { return sum }
      return sum + stage(unit).workingSet(sizes(unit)).total
    }
  }

  private func stage(_ unit: Unit) -> any Stage { job.recipe.entries[unit.entry].stage }
}
