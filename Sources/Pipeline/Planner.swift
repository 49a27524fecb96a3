import EspalierCore
import EspalierIO

/// What a job will need, from recipe and outline alone.
public struct Plan: Sendable {
  /// The needs of one stage of the recipe.
  public struct Stage: Sendable {
    public let id: String
    public let name: String
    public let units: Int
    /// The most memory that a unit of it needs.
    public let memory: WorkingSet
    /// Bytes that it leaves in the work folder, freed ones included.
    public let artifactBytes: Int
    /// Why it has nothing to do, where it has nothing to do.
    public let idleReason: String?
  }

  public let stages: [Stage]
  public let units: Int
  /// The most memory that the job holds at a time, in bytes.
  public let peakMemory: Int
  /// The most bytes that the work folder holds at a time.
  public let workBytes: Int
  /// Bytes of the pruned checkpoint.
  public let outputBytes: Int
  /// Bytes read from the checkpoint.
  public let readBytes: Int
  /// Floating-point operations of forward passes and Gram matrices.
  public let operations: Double
}

public enum Planner {
  /// What the program itself holds: code, libraries and their buffers.
  public static let processBytes = 64 << 20

  /// Checks a job and computes its needs; no tensor is read and nothing is written.
  ///
  /// - Throws: every mistake of recipe, model and output that can be known, and "needs at least" where the memory is too small.
  public static func plan(_ job: Job) throws -> Plan {
    let graph = try UnitGraph(recipe: job.recipe, model: job.model)
    for entry in job.recipe.entries {
      try about(entry.id) { try entry.stage.check(job.model, checkpoint: job.checkpoint) }
      for (parameter, path) in entry.files.sorted(by: { $0.key < $1.key })
      where try Folder.entry(path)?.isFile != true {
        throw EspalierError.usage("there is no file \"\(path)\" (\(entry.id).\(parameter)).")
      }
      try (entry.stage as? any ModelStage)?.checkOutput(job: job)
    }
    let samples = shape(job).samples
    if let unit = graph.units.first(where: { $0.holdOut > 0 && Int(Double(samples) * $0.holdOut) == 0 }) {
      throw EspalierError.usage(
        "holdOut \(unit.holdOut) of \(samples) calibration windows is none; draw more samples, or hold out more."
      )
    }
    let plan = try needs(graph, job)
    guard plan.peakMemory <= job.memory else {
      throw EspalierError.usage(
        "this job needs at least \(ByteSize(bytes: plan.peakMemory)) of memory, but --memory is \(ByteSize(bytes: job.memory))."
      )
    }
    try checkDisk(plan, job)
    return plan
  }

  private static func needs(_ graph: UnitGraph, _ job: Job) throws -> Plan {
    var kept = 0
    var transient = 0
    var peak = 0
    let stages = job.recipe.entries.enumerated().map { index, entry in
      let units = graph.units.filter { $0.entry == index }
      let memory = units.map { workingSet($0, job: job) }.max { $0.total < $1.total } ?? WorkingSet()
      let sizes = units.map { (bytes: artifactBytes($0, job), isTransient: $0.isTransient) }
      kept += sizes.reduce(0) { $0 + ($1.isTransient ? 0 : $1.bytes) }
      // Two artifacts of a transient kind can be there at a time: the one that is read and the one that is written.
      transient += 2 * (sizes.filter(\.isTransient).map(\.bytes).max() ?? 0)
      peak = max(peak, memory.total)
      return Plan.Stage(
        id: entry.id, name: type(of: entry.stage).name, units: units.count, memory: memory,
        artifactBytes: sizes.reduce(0) { $0 + $1.bytes },
        idleReason: (entry.stage as? any ModelStage)?.idleReason)
    }
    let output = try job.checkpoint.fileNames().reduce(0) {
      try $0 + (Folder.entry(job.checkpoint.folder + "/" + $1)?.size ?? 0)
    }
    let weights = job.checkpoint.tensors.values.reduce(0) { $0 + $1.entry.range.count }
    return Plan(
      stages: stages, units: graph.units.count, peakMemory: processBytes + peak, workBytes: kept + transient,
      outputBytes: output,
      readBytes: 2 * weights + output, operations: operations(graph, job))
  }

  private static func checkDisk(_ plan: Plan, _ job: Job) throws {
    for (path, bytes, what) in [
      (job.work, plan.workBytes, "the work folder"), (job.output, plan.outputBytes, "the pruned model"),
    ] {
      let free = try Folder.freeBytes(at: path)
      // What an earlier run wrote need not be written again.
      guard try bytes <= free || bytes <= free + Self.bytes(at: path) else {
        throw EspalierError(
          .io,
          "\(what) needs at least \(ByteSize(bytes: bytes)), but its disk has \(ByteSize(bytes: free)) free.",
          subject: path)
      }
    }
  }

  private static func bytes(at path: String) throws -> Int {
    guard let entry = try Folder.entry(path) else { return 0 }
    guard entry.isFolder else { return entry.size }
    return try Folder.names(in: path).reduce(0) { try $0 + bytes(at: "\(path)/\($1)") }
  }

  /// The memory that a unit needs, its source's included.
  static func workingSet(_ unit: Unit, job: Job) -> WorkingSet {
    let shape = shape(job)
    var site: ModelOutline.Site?
    var matrix: ModelOutline.Matrix?
    if case .site(let index) = unit.role, let block = unit.block {
      site = job.model.blocks[block].sites[index]
    }
    if case .matrix(let found) = unit.role { matrix = found }
    let sizes = UnitSizes(
      model: job.model, samples: shape.samples, length: shape.length,
      batchTokens: min(Batching.sequences(length: shape.length), max(1, shape.samples)) * shape.length,
      site: site, matrix: matrix, holdOut: unit.holdOut,
      weightBytes: matrix.flatMap { job.checkpoint.tensors[$0.tensor]?.entry.dtype?.byteCount } ?? 4,
      threads: job.threads)
    let own = job.recipe.entries[unit.entry].stage.workingSet(sizes)
    guard case .site = unit.role, let source = job.recipe.source else { return own }
    return own + source.stage.workingSet(sizes)
  }

  private static func shape(_ job: Job) -> (samples: Int, length: Int) {
    job.recipe.entries.lazy.compactMap { ($0.stage as? any CorpusStage)?.shape }.first ?? (1, 1)
  }

  private static func artifactBytes(_ unit: Unit, _ job: Job) -> Int {
    let shape = shape(job)
    let tokens = shape.samples * shape.length
    switch unit.role {
    case .corpus: return tokens * 4
    case .embed, .advance: return tokens * job.model.hiddenSize * 4
    case .site(let index):
      let columns = job.model.blocks[unit.block ?? 0].sites[index].columns
      return columns * 8 + workingSet(unit, job: job).factor
    case .matrix(let matrix):
      let stage = job.recipe.entries[unit.entry].stage as? any MatrixStage
      let weightBytes = job.checkpoint.tensors[matrix.tensor]?.entry.range.count ?? 0
      return matrix.rows * Mask.rowBytes(matrix.columns) + (stage?.writesWeights == true ? weightBytes : 0)
    case .allocation, .model: return 0
    }
  }

  private static func operations(_ graph: UnitGraph, _ job: Job) -> Double {
    let shape = shape(job)
    let tokens = Double(shape.samples * shape.length)
    func forward(_ block: ModelOutline.Block) -> Double {
      block.matrices.reduce(0) { $0 + 2 * tokens * Double($1.rows) * Double($1.columns) }
    }
    let passes = Dictionary(
      graph.units.compactMap { unit in unit.pass.map { ($0, unit.block ?? 0) } },
      uniquingKeysWith: { first, _ in first })
    let streamed = passes.values.reduce(0) { $0 + forward(job.model.blocks[$1]) }
    let advanced = graph.units.filter { $0.role == .advance && $0.pass == nil }.reduce(0) {
      $0 + forward(job.model.blocks[$1.block ?? 0])
    }
    let grams = graph.units.reduce(0.0) { sum, unit in
      guard case .site(let index) = unit.role else { return sum }
      let columns = Double(job.model.blocks[unit.block ?? 0].sites[index].columns)
      return sum
        + (workingSet(unit, job: job).factor > Int(columns) * 8
          ? tokens * columns * columns : 2 * tokens * columns)
    }
    return streamed + advanced + grams
  }
}
