import EspalierCore
import EspalierIO

/// What the units of a job need.
struct UnitNeeds: Sendable {
  let job: Job
  let graph: UnitGraph
  /// Calibration sequences, and tokens of each.
  /// What the corpus stage will make; nil if there is none.
  let corpus: CorpusReport?
  var samples: Int { corpus?.samples ?? 1 }
  var length: Int { corpus?.length ?? 1 }
  /// The calibration windows.
  var windows: WindowShards { WindowShards(windows: samples, count: source?.shards ?? 1) }
  /// Memory of the program itself, with the graph and the tables of tensors. In large jobs each unit and tensor takes about 2.5 KiB
  /// by the end of a run.
  let heldBytes: Int
  private let source: (any SourceStage)?
  /// Index of the stage that makes factors, and the largest share of sequences that is left out of them.
  private let factor: Int?
  private let holdOut: Double
  /// Bytes of the tensors of each block.
  private let blockBytes: [Int]
  private var shapes = UnitShapes()
  /// By shape: the memory of a unit with its source, the memory of its stage alone, the bytes of its artifact, its work.
  private var sets: [WorkingSet] = []
  private var ownSets: [WorkingSet] = []
  private var leftBytes: [Int] = []
  private var works: [Work] = []

  init(_ job: Job, _ graph: UnitGraph) {
    self.job = job
    self.graph = graph
    corpus = job.recipe.stages(\.corpus).first?.stage.report(for: job.model)
    source = job.recipe.stages(\.source).first?.stage
    heldBytes = Planner.processBytes + max(0, graph.units.count + job.checkpoint.tensors.count - 1000) * 2560
    factor = job.recipe.stages(\.site).first?.index
    holdOut = job.recipe.stages(\.matrix).map(\.stage.holdOut).max() ?? 0
    blockBytes = job.model.blocks.map { Self.bytes(of: $0.tensors.keys, job.checkpoint) }
    shapes = UnitShapes(graph, job.model) { [self] in (tensorBytes($0), weightBytes($0)) }
    for unit in shapes.examples.map({ graph.units[$0] }) {
      sets.append(set(unit, memory: job.memory))
      ownSets.append(own(unit, self.sizes(unit)))
      leftBytes.append(stage(unit).artifactBytes(self.sizes(unit)))
      works.append(stage(unit).work(self.sizes(unit)))
    }
  }

  // MARK: - Sizes

  /// The sizes of a unit in a job that may use `memory` bytes, by default the job's limit.
  func sizes(_ unit: Unit, memory: Int? = nil) -> UnitSizes {
    let alone = sizes(unit, available: (memory ?? job.memory) - heldBytes)
    guard case .site = unit.task, let source else { return alone }
    return sizes(unit, available: alone.available - source.workingSet(alone).total)
  }

  private func sizes(_ unit: Unit, available: Int) -> UnitSizes {
    let block = unit.block.map { job.model.blocks[$0] }
    let site = unit.streamedSite.flatMap { block?.sites[$0] }
    return UnitSizes(
      model: job.model, task: unit.task, samples: samples, length: length, shards: windows.count,
      batchTokens: min(Batching.sequences(length: length), max(1, windows.most)) * length,
      block: block, site: site, matrix: unit.matrix, pattern: unit.pattern?.known,
      isAcrossRows: unit.pattern?.isAcrossRows ?? false, writesHidden: graph.writesHidden(unit),
      endsAtCut: graph.endsAtCut(unit, in: job.model),
      holdOut: unit.holdOut,
      target: unit.isDense ? .pruned : job.recipe.stages(\.site).first?.stage.target ?? .pruned,
      statesAreExact: source?.keepsExactStates ?? true, diagonalIsEnough: unit.diagonalIsEnough,
      precision: job.arithmetic(of: unit).precision,
      weightBytes: weightBytes(unit),
      tensorBytes: tensorBytes(unit),
      factorBytes: factorBytes(unit), threads: job.device.threads, available: max(0, available))
  }

  /// Bytes of a weight in the checkpoint.
  private func weightBytes(_ unit: Unit) -> Int {
    var weight = (unit.block.map { job.model.blocks[$0] } ?? job.model.blocks.first)?.sites.lazy
      .compactMap(\.matrices.first).first
    if case .matrix(let matrix) = unit.task { weight = matrix }
    return weight.flatMap { job.checkpoint.tensors[$0.tensor]?.dtype?.byteCount } ?? 4
  }

  /// Bytes of the factor that a matrix's unit reads.
  private func factorBytes(_ unit: Unit) -> Int {
    let readsFactor = job.recipe.entries[unit.entry].role.matrix?.reads.contains(.factor) ?? true
    guard readsFactor, case .matrix = unit.task, let block = unit.block, let site = unit.site, let factor
    else { return 0 }
    let cut = source?.propagation == .sites ? job.model.blocks[block].sites[site].cut : .start
    let made = Unit(
      id: "", entry: factor, task: .site(site, from: cut), block: block, kind: .factor, inputs: [],
      tensors: .none,
      pass: nil, isTransient: false, holdOut: holdOut)
    return stage(made).artifactBytes(sizes(made))
  }

  /// Bytes of the checkpoint that a unit reads; of a tensor with several matrices, the bytes of the unit's matrix.
  func tensorBytes(_ unit: Unit) -> Int {
    if case .matrix(let matrix) = unit.task, matrix.part != nil {
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
    names.reduce(0) { $0 + (checkpoint.tensors[$1]?.byteCount ?? 0) }
  }

  // MARK: - Needs

  /// Bytes that a unit leaves in the work folder.
  func artifactBytes(_ unit: Int) -> Int { leftBytes[shapes.shapes[unit]] }

  /// What a unit computes, without its source.
  func work(_ unit: Int) -> Work { works[shapes.shapes[unit]] }

  /// What units that run together compute, read and write: each of them, and once for all with the stage that does it.
  func works(together indices: [Int]) -> (own: [Work], shared: (entry: Int, work: Work)) {
    let units = indices.map { graph.units[$0] }
    var shared = (entry: units[0].entry, work: Work())
    // The block streams once for all of them.
    if units[0].streams, let source = job.recipe.stages(\.source).first {
      let unit = units.first { $0.isPropagation } ?? units[units.count - 1]
      shared = (source.index, source.stage.work(sizes(unit)))
    }
    let inputs = Set(units.flatMap(\.inputs)).reduce(0) { $0 + artifactBytes($1) }
    shared.work.readBytes += inputs + tensorBytes(units[0])
    let own = zip(indices, units).map { index, unit in
      var work = unit.isPropagation ? Work() : self.work(index)
      let bytes = artifactBytes(index) + (job.output(of: unit)?.bytes ?? 0)
      work.writtenBytes += bytes
      work.hashedBytes += bytes
      work.commits += 1
      return work
    }
    return (own, shared)
  }

  /// The memory that a unit needs, with its source.
  func workingSet(_ unit: Int) -> WorkingSet { sets[shapes.shapes[unit]] }

  private func set(_ unit: Unit, memory: Int) -> WorkingSet {
    let own = own(unit, sizes(unit, memory: memory))
    guard case .site = unit.task, let source else { return own }
    return own + source.workingSet(sizes(unit, available: memory - heldBytes))
  }

  /// The memory of a unit's stage. What a rank found for its rows may wait until the owner takes it.
  private func own(_ unit: Unit, _ sizes: UnitSizes) -> WorkingSet {
    var set = stage(unit).workingSet(sizes)
    if graph.ranks > 1, unit.kind == .mask,
      job.recipe.entries[unit.entry].role.matrix?.repeatedWork(sizes) != nil
    {
      set.rows += stage(unit).artifactBytes(sizes)
    }
    return set
  }

  /// The unit that needs the most memory in a job that may use `memory` bytes, and what it needs.
  func most(memory: Int) -> (unit: Unit, set: WorkingSet)? {
    shapes.examples.lazy.map { (unit: graph.units[$0], set: set(graph.units[$0], memory: memory)) }
      .max { $0.set.total < $1.set.total }
  }

  /// Of units that could run now, those that run together, at least one: as many sites of a pass as fit into memory, with the hidden
  /// states after the block; or as many matrices as fit and as their stage works on side by side.
  func together(_ candidates: [Int]) -> [Int] {
    guard let first = candidates.first, graph.units[first].pass != nil else {
      return Array(candidates.prefix(1))
    }
    let most = job.recipe.entries[graph.units[first].entry].role.matrix?.unitsAtATime ?? candidates.count
    var free = job.memory - heldBytes - workingSet(first).total
    var chosen = [first]
    for candidate in candidates.dropFirst() where chosen.count < most {
      if let needed = needBeside(candidate)?.total {
        guard needed <= free else { continue }
        free -= needed
      }
      chosen.append(candidate)
    }
    return chosen
  }

  /// What a unit needs beside the first one that it runs with; nil if nothing.
  private func needBeside(_ unit: Int) -> WorkingSet? {
    switch graph.units[unit].task {
    case .site, .matrix: ownSets[shapes.shapes[unit]]
    default: nil
    }
  }

  /// The memory of units that run together.
  func memory(_ units: [Int]) -> Int {
    guard let first = units.first else { return 0 }
    return units.dropFirst().reduce(workingSet(first).total) { $0 + (needBeside($1)?.total ?? 0) }
  }

  /// The part of ``memory(_:)`` that is buffers.
  func buffers(_ units: [Int]) -> Int {
    guard let first = units.first else { return 0 }
    return units.dropFirst().reduce(workingSet(first).buffers) { $0 + (needBeside($1)?.buffers ?? 0) }
  }

  private func stage(_ unit: Unit) -> any Stage { job.recipe.entries[unit.entry].stage }
}

extension Unit {
  /// Whether its block streams.
  fileprivate var streams: Bool { task.start != nil }
}
