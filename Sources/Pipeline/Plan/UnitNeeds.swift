import EspalierCore
import EspalierIO

/// What the units of a job need, by their sizes.
struct UnitNeeds: Sendable {
  let job: Job
  let graph: UnitGraph
  /// Calibration sequences, and tokens of each.
  let samples: Int
  let length: Int
  /// What the program itself holds, with the graph and the tables of tensors: of many, each takes about 2.5 KiB by the end of a run.
  let heldBytes: Int
  private let source: (any SourceStage)?
  /// The stage that makes factors, by its index in the recipe, and the largest share that is kept apart from them.
  private let factor: Int?
  private let holdOut: Double
  /// Bytes of the tensors of each block.
  private let blockBytes: [Int]
  private var shapes = UnitShapes()
  /// By shape: what a unit needs in memory, with its source, and what its stage needs by itself; what it leaves; what it does.
  private var sets: [WorkingSet] = []
  private var ownBytes: [Int] = []
  private var leftBytes: [Int] = []
  private var works: [Work] = []

  init(_ job: Job, _ graph: UnitGraph) {
    self.job = job
    self.graph = graph
    let stages = job.recipe.entries.map(\.stage)
    (samples, length) =
      stages.lazy.compactMap { ($0 as? any CorpusStage)?.shape(for: job.model) }.first ?? (1, 1)
    source = stages.lazy.compactMap { $0 as? any SourceStage }.first
    heldBytes = Planner.processBytes + max(0, graph.units.count + job.checkpoint.tensors.count - 1000) * 2560
    factor = stages.firstIndex { $0 is any SiteStage }
    holdOut = stages.lazy.compactMap { ($0 as? any MatrixStage)?.holdOut }.max() ?? 0
    blockBytes = job.model.blocks.map { Self.bytes(of: $0.tensors.keys, job.checkpoint) }
    shapes = UnitShapes(graph, job.model) { [self] in (tensorBytes($0), weightBytes($0)) }
    for unit in shapes.examples.map({ graph.units[$0] }) {
      sets.append(set(unit, memory: job.memory))
      ownBytes.append(stage(unit).workingSet(self.sizes(unit)).total)
      leftBytes.append(stage(unit).artifactBytes(self.sizes(unit)))
      works.append(stage(unit).work(self.sizes(unit)))
    }
  }

  // MARK: - Sizes

  /// The sizes of a unit, with what it may use of `memory`, by default the job's.
  func sizes(_ unit: Unit, memory: Int? = nil) -> UnitSizes {
    let alone = sizes(unit, available: (memory ?? job.memory) - heldBytes)
    guard case .site = unit.role, let source else { return alone }
    return sizes(unit, available: alone.available - source.workingSet(alone).total)
  }

  private func sizes(_ unit: Unit, available: Int) -> UnitSizes {
    let block = unit.block.map { job.model.blocks[$0] }
    var site: ModelOutline.Site?
    var matrix: ModelOutline.Matrix?
    if case .site(let index) = unit.role { site = block?.sites[index] }
    if case .matrix(let found) = unit.role { matrix = found }
    return UnitSizes(
      model: job.model, role: unit.role, samples: samples, length: length,
      batchTokens: min(Batching.sequences(length: length), max(1, samples)) * length,
      block: block, site: site, matrix: matrix, pattern: unit.pattern, holdOut: unit.holdOut,
      precision: job.arithmetic.precision, weightBytes: weightBytes(unit), tensorBytes: tensorBytes(unit),
      factorBytes: factorBytes(unit), threads: job.device.threads, available: max(0, available))
  }

  /// Bytes of a weight in the checkpoint.
  private func weightBytes(_ unit: Unit) -> Int {
    var weight = (unit.block.map { job.model.blocks[$0] } ?? job.model.blocks.first)?.sites.lazy
      .compactMap(\.matrices.first).first
    if case .matrix(let matrix) = unit.role { weight = matrix }
    return weight.flatMap { job.checkpoint.tensors[$0.tensor]?.entry.dtype?.byteCount } ?? 4
  }

  /// Bytes of the factor that a matrix's unit reads.
  private func factorBytes(_ unit: Unit) -> Int {
    let readsFactor = (stage(unit) as? any MatrixStage)?.reads.contains(.factor) ?? true
    guard readsFactor, case .matrix = unit.role, let site = unit.site, let factor else { return 0 }
    let made = Unit(
      id: "", entry: factor, role: .site(site), block: unit.block, kind: .factor, inputs: [], tensors: .none,
      pass: nil, isTransient: false, holdOut: holdOut)
    return stage(made).artifactBytes(sizes(made))
  }

  /// Bytes of the checkpoint that a unit reads; of a tensor that stacks several matrices, those of its own.
  func tensorBytes(_ unit: Unit) -> Int {
    if case .matrix(let matrix) = unit.role, matrix.part != nil {
      return matrix.parameters * weightBytes(unit)
    }
    return tensorBytes(unit.tensors)
  }

  /// Bytes of tensors of the checkpoint.
  func tensorBytes(_ tensors: UnitTensors) -> Int {
    switch tensors {
    case .none: 0
    case .block(let index): blockBytes[index]
    case .all: blockBytes.reduce(Self.bytes(of: job.model.tensors.keys, job.checkpoint), +)
    case .tensor, .list: Self.bytes(of: tensors.names(in: job.model), job.checkpoint)
    }
  }

  static func bytes(of names: some Sequence<String>, _ checkpoint: Checkpoint) -> Int {
    names.reduce(0) { $0 + (checkpoint.tensors[$1]?.entry.range.count ?? 0) }
  }

  // MARK: - Needs

  /// Bytes that a unit leaves in the work folder.
  func artifactBytes(_ unit: Int) -> Int { leftBytes[shapes.shapes[unit]] }

  /// What a unit computes by itself.
  func work(_ unit: Int) -> Work { works[shapes.shapes[unit]] }

  /// The memory that a unit needs, its source's included.
  func workingSet(_ unit: Int) -> WorkingSet { sets[shapes.shapes[unit]] }

  private func set(_ unit: Unit, memory: Int) -> WorkingSet {
    let own = stage(unit).workingSet(sizes(unit, memory: memory))
    guard case .site = unit.role, let source else { return own }
    return own + source.workingSet(sizes(unit, available: memory - heldBytes))
  }

  /// What units need that may use so much memory: the most of all, and the first that needs it.
  func most(memory: Int) -> (unit: Unit, set: WorkingSet)? {
    shapes.examples.lazy.map { (unit: graph.units[$0], set: set(graph.units[$0], memory: memory)) }
      .max { $0.set.total < $1.set.total }
  }

  /// Of units that can run now, those that run together: as many sites of a pass as the memory holds, at least one; hidden
  /// states go with the first.
  func together(_ candidates: [Int]) -> [Int] {
    guard let first = candidates.first, graph.units[first].pass != nil else {
      return Array(candidates.prefix(1))
    }
    var room = job.memory - heldBytes - workingSet(first).total
    return [first]
      + candidates.dropFirst().filter { candidate in
        guard case .site = graph.units[candidate].role else { return true }
        let needed = ownBytes[shapes.shapes[candidate]]
        guard needed <= room else { return false }
        room -= needed
        return true
      }
  }

  /// The memory of units that run together.
  func memory(_ units: [Int]) -> Int {
    guard let first = units.first else { return 0 }
    return units.dropFirst().reduce(workingSet(first).total) { sum, unit in
      guard case .site = graph.units[unit].role else { return sum }
      return sum + ownBytes[shapes.shapes[unit]]
    }
  }

  private func stage(_ unit: Unit) -> any Stage { job.recipe.entries[unit.entry].stage }
}
