import EspalierCore
import EspalierIO
import Glibc

/// Runs a job: asks the ``Scheduler`` what to do and does it, committing each unit to the store.
///
/// The same job after a crash, an interruption or a full disk continues where it stopped and ends with the same bytes.
public struct Runner: Sendable {
  private let job: Job
  private let graph: UnitGraph
  private let store: ArtifactStore
  private let keys: UnitKeys
  private let report: @Sendable (ProgressEvent) -> Void

  /// Checks the job; touches nothing but the work folder's own structure.
  public init(_ job: Job, progress: @escaping @Sendable (ProgressEvent) -> Void) throws {
    self.job = job
    graph = try UnitGraph(recipe: job.recipe, model: job.model)
    store = try ArtifactStore(folder: job.work)
    keys = UnitKeys(job: job, graph: graph)
    report = progress
  }

  /// Runs what is missing.
  ///
  /// - Throws: the first error; all committed units stay.
  public func run() throws {
    let lock = try FolderLock(folder: job.work)
    defer { withExtendedLifetime(lock) {} }
    for entry in job.recipe.entries { try (entry.stage as? any ModelStage)?.checkOutput(job: job) }
    // A run with another work folder may want the same output, and is better told now than after hours.
    let writesOutput = graph.units.contains { $0.kind == .output }
    let outputLock = writesOutput ? try FolderLock(folder: job.partialOutput, .output(job.output)) : nil
    defer {
      if writesOutput { try? Folder.remove(job.partialOutput) }
      withExtendedLifetime(outputLock) {}
    }
    try store.removePartial()
    var log = try EventLog(work: job.work)
    try log.append("start", startMembers())
    do {
      try work(&log)
      try log.append("end", [("peak", .integer(Self.peakMemory()))])
    } catch {
      // On a full disk, what is half done is in the way.
      try? store.removePartial()
      try? log.append("stopped", [("reason", .string("\(error)"))])
      throw error
    }
  }

  private func work(_ log: inout EventLog) throws {
    var scheduler = Scheduler(graph: graph)
    var state = RunState(job: job)
    while true {
      try Interruption.check()
      switch scheduler.next() {
      case .lookUp(let unit): try lookUp(unit, &scheduler, &state, &log)
      case .run(let units): try run(units, &scheduler, &state, &log)
      case .release(let unit):
        if let key = state.keys[unit] { try store.release(key) }
        scheduler.released(unit)
      case .finished: return
      }
    }
  }

  /// What is known while a run goes on.
  private struct RunState {
    var keys: [Int: Digest] = [:]
    var components: [Int: JSON] = [:]
    var manifests: [Int: Manifest] = [:]
    /// Units whose bytes were written or checked by this process.
    var trusted: Set<Int> = []
    let job: Job
  }

  private func lookUp(
    _ unit: Int, _ scheduler: inout Scheduler, _ state: inout RunState, _ log: inout EventLog
  ) throws {
    let components = try keys.components(unit) { scheduler.digest($0) }
    let key = UnitKeys.key(components)
    state.keys[unit] = key
    state.components[unit] = components
    // After an input has changed, what was known under the old key does not hold.
    state.manifests[unit] = nil
    state.trusted.remove(unit)
    guard let manifest = try store.manifest(key) else { return scheduler.missing(unit) }
    let isPresent = try store.isPresent(manifest) && outputIsPresent(unit, key)
    if !isPresent, graph.readers[unit].isEmpty || graph.units[unit].kind == .output {
      return scheduler.missing(unit)
    }
    state.manifests[unit] = manifest
    scheduler.found(unit, digest: manifest.digest, isPresent: isPresent)
    try log.append("reused", [("unit", .string(graph.units[unit].id)), ("key", .string(key.hex))])
    report(.reused(unit: graph.units[unit].id, done: state.manifests.count, total: graph.units.count))
  }

  private func run(
    _ candidates: [Int], _ scheduler: inout Scheduler, _ state: inout RunState, _ log: inout EventLog
  ) throws {
    var isDamaged = false
    for input in Set(candidates.flatMap { graph.units[$0].inputs }).sorted()
    where !state.trusted.contains(input) {
      guard let manifest = state.manifests[input] else { continue }
      // Bytes that an earlier process wrote are read once before they are used.
      let damaged = try store.damagedObjects(of: manifest)
      guard damaged.isEmpty else {
        report(
          .note(
            "\(graph.units[input].id): \(damaged.map(\.path).joined(separator: ", ")) is not what was written; it is made again."
          ))
        try store.release(manifest.key)
        scheduler.released(input)
        isDamaged = true
        continue
      }
      state.trusted.insert(input)
    }
    if isDamaged { return }
    let units = UnitNeeds(job).together(candidates, graph)
    let start = Self.seconds()
    for unit in units {
      report(
        .began(
          unit: graph.units[unit].id, done: state.manifests.count, total: graph.units.count,
          block: graph.units[unit].block,
          blocks: job.model.blocks.count))
    }
    let results = try execute(units, state)
    try keys.requireSameFiles()
    for (unit, result) in zip(units, results) {
      guard let key = state.keys[unit], let components = state.components[unit] else { continue }
      let manifest = try store.commit(
        key, components: components, content: result.content, report: result.report)
      state.manifests[unit] = manifest
      state.trusted.insert(unit)
      scheduler.committed(unit, digest: manifest.digest)
      let seconds = (Self.seconds() - start) / Double(units.count)
      try log.append(
        "done",
        [
          ("unit", .string(graph.units[unit].id)), ("key", .string(key.hex)), ("seconds", .number(seconds)),
          ("bytes", .integer(manifest.objects.reduce(0) { $0 + $1.size })),
          ("peak", .integer(Self.peakMemory())), ("report", result.report),
        ])
      report(
        .committed(
          unit: graph.units[unit].id, done: state.manifests.count, total: graph.units.count, seconds: seconds,
          report: result.report))
    }
    try keys.save()
  }

  private func execute(_ units: [Int], _ state: RunState) throws -> [Committed] {
    let contexts = try units.map { try context($0, state) }
    defer { SpareMemory.release() }
    let first = contexts[0]
    switch first.unit.role {
    case .site, .advance: return try stream(contexts)
    default: return try about(first.unit.id) { [try runAlone(first)] }
    }
  }

  private func runAlone(_ context: UnitContext) throws -> Committed {
    let entry = job.recipe.entries[context.unit.entry]
    switch (context.unit.role, entry.stage) {
    case (.corpus, let stage as any CorpusStage):
      return Committed(content: nil, report: try stage.run(context))
    case (.matrix, let stage as any MatrixStage):
      return Committed(content: nil, report: try stage.run(context))
    case (.matrix, let stage as any AllocationStage):
      return Committed(content: nil, report: try stage.survey(context))
    case (.allocation, let stage as any AllocationStage):
      return Committed(content: nil, report: try stage.run(context))
    case (.model, let stage as any ModelStage): return Committed(content: nil, report: try stage.run(context))
    case (.embed, let stage as any SourceStage): return try stage.embed(context)
    default:
      throw EspalierError.internalFault("the stage \(entry.id) cannot run the unit \(context.unit.id).")
    }
  }

  private func stream(_ contexts: [UnitContext]) throws -> [Committed] {
    guard let entry = job.recipe.source, let source = entry.stage as? any SourceStage else {
      throw EspalierError.internalFault("a block streams without a source.")
    }
    var sinks: [Int: any SiteSink] = [:]
    for context in contexts {
      guard case .site(let site) = context.unit.role,
        let stage = job.recipe.entries[context.unit.entry].stage as? any SiteStage
      else { continue }
      sinks[site] = try about(context.unit.id) { try stage.sink(context) }
    }
    let advanced = try about("\(entry.id)/\(contexts[0].unit.block ?? 0)") {
      try source.stream(contexts[0], sinks: sinks, advance: contexts.first { $0.unit.role == .advance })
    }
    return try contexts.map { context in
      if case .site(let site) = context.unit.role, let sink = sinks[site] {
        let report = try about(context.unit.id) { try sink.finish() }
        return Committed(content: sink.content, report: report)
      }
      guard let advanced else { throw EspalierError.internalFault("the source wrote no hidden states.") }
      return advanced
    }
  }

  private func context(_ unit: Int, _ state: RunState) throws -> UnitContext {
    guard let key = state.keys[unit], let components = state.components[unit] else {
      throw EspalierError.internalFault("the unit \(graph.units[unit].id) has no key.")
    }
    let inputs = graph.units[unit].inputs.compactMap { input in
      state.manifests[input].map { (unit: graph.units[input], manifest: $0) }
    }
    return UnitContext(
      job: job, unit: graph.units[unit], key: key, components: components, folder: try store.begin(key),
      inputs: inputs, store: store,
      progress: ProgressReporter(
        unit: graph.units[unit].id, done: state.manifests.count, total: graph.units.count, handler: report),
      keys: keys)
  }

  private func outputIsPresent(_ unit: Int, _ key: Digest) throws -> Bool {
    try (job.recipe.entries[graph.units[unit].entry].stage as? any ModelStage)?.outputIsPresent(key, job: job)
      ?? true
  }

  private func startMembers() -> [(key: String, value: JSON)] {
    [
      ("model", .string(job.checkpoint.folder)), ("output", .string(job.output)),
      ("memory", .integer(job.memory)),
      ("threads", .integer(job.threads)), ("process", .integer(Int(getpid()))),
      ("units", .integer(graph.units.count)),
      ("stages", .array(job.recipe.entries.map { ["id": .string($0.id), "parameters": $0.key] })),
      ("recipe", .string(job.recipe.text)),
      ("overrides", .array(job.recipe.overrides.map(JSON.string))),
    ]
  }

  private static func seconds() -> Double {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) * 1e-9
  }

  /// The most memory that this process ever held, in bytes.
  public static func peakMemory() -> Int {
    var usage = rusage()
    getrusage(RUSAGE_SELF.rawValue, &usage)
    return usage.ru_maxrss * 1024
  }
}
