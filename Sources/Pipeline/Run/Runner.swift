import EspalierCore
import EspalierIO
import Glibc

/// Runs a job: does what the ``Scheduler`` says and commits each unit to the store.
///
/// The same job after a crash, an interruption or a full disk continues where it stopped and ends with the same bytes.
public struct Runner: Sendable {
  private let job: Job
  private let graph: UnitGraph
  private let store: ArtifactStore
  private let keys: UnitKeys
  private let needs: UnitNeeds
  private let forecast: Forecast?
  /// What is expected of the stages, before anything is done.
  private let remaining: RemainingTime
  private let report: @Sendable (ProgressEvent) -> Void

  /// - Parameter forecast: what was planned, for reports.
  /// - Throws: a usage error if the stages of the recipe do not fit together, or a later version made the work folder.
  public init(
    _ job: Job, forecast: Forecast? = nil, progress: @escaping @Sendable (ProgressEvent) -> Void
  ) throws {
    self.job = job
    self.forecast = forecast
    graph = try UnitGraph(recipe: job.recipe, model: job.model)
    store = try ArtifactStore(unprepared: job.work)
    keys = UnitKeys(job: job, graph: graph)
    needs = UnitNeeds(job, graph)
    remaining = try RemainingTime(job.recipe, graph, needs)
    report = progress
  }

  /// Runs what is missing.
  ///
  /// - Throws: the first error; all committed units stay.
  public func run() throws {
    let lock = try FolderLock(folder: job.work)
    defer { withExtendedLifetime(lock) {} }
    do {
      try job.checkOutputs()
      try locking(job.outputs[...]) { try runLocked() }
    } catch {
      // A run that was refused leaves nothing behind.
      if (try? Folder.names(in: job.work)) == [FolderLock.fileName] { try? Folder.remove(job.work) }
      throw error
    }
  }

  /// Locks outputs while `body` runs: a run with another work folder that writes the same output should fail now, not after hours.
  private func locking(_ outputs: ArraySlice<JobOutput>, _ body: () throws -> Void) throws {
    guard let output = outputs.first else { return try body() }
    let lock = try FolderLock(folder: output.partial, .output(output.path))
    defer {
      try? Folder.remove(output.partial)
      withExtendedLifetime(lock) {}
    }
    try locking(outputs.dropFirst(), body)
  }

  private func runLocked() throws {
    try store.prepare()
    try store.removePartial()
    var log = try EventLog(work: job.work)
    try log.append("start", startMembers())
    do {
      try work(&log)
      try log.append("end", [("peak", .integer(Self.peakMemory()))])
    } catch {
      // Unfinished objects may be what fills the disk.
      try? store.removePartial()
      try? keys.save()
      try? log.append("stopped", [("reason", .string("\(error)"))])
      throw error
    }
  }

  private func work(_ log: inout EventLog) throws {
    var scheduler = Scheduler(graph: graph)
    var state = RunState(remaining: remaining)
    while true {
      try Interruption.check()
      switch scheduler.next() {
      case .lookUp(let unit): try lookUp(unit, &scheduler, &state, &log)
      case .run(let units): try run(units, &scheduler, &state, &log)
      case .release(let unit):
        if let key = state.keys[unit] { try store.release(key) }
        scheduler.released(unit)
      case .finished:
        try conclude(state)
        return try keys.save()
      }
    }
  }

  /// Lets the outputs note what was measured of them.
  private func conclude(_ state: RunState) throws {
    let evaluations = try graph.units.indices.compactMap {
      index -> (stage: String, report: EvaluationReport)? in
      guard graph.units[index].kind == .evaluation,
        case .evaluation(let report) = try manifest(index, state)?.unitReport
      else { return nil }
      return (job.recipe.entries[graph.units[index].entry].id, report)
    }
    for (index, unit) in graph.units.enumerated() where unit.kind == .output {
      guard let stage = job.recipe.entries[unit.entry].role.output, let output = job.output(of: unit),
        let key = state.keys[index]
      else { continue }
      try about(unit.id) {
        try stage.conclude(
          output, key: key, job: job, sources: keys.sources(), evaluations: evaluations)
      }
    }
  }

  /// What a run knows of its units.
  private struct RunState {
    var keys: [Int: Digest] = [:]
    /// Units whose artifact is known.
    var done: Set<Int> = []
    /// Units whose bytes were written or checked by this process.
    var trusted: Set<Int> = []
    var remaining: RemainingTime
  }

  private func lookUp(
    _ unit: Int, _ scheduler: inout Scheduler, _ state: inout RunState, _ log: inout EventLog
  ) throws {
    let key = UnitKeys.key(try keys.components(unit) { scheduler.digest($0) })
    state.keys[unit] = key
    // After an input has changed, the artifact of the old key no longer counts.
    state.done.remove(unit)
    state.trusted.remove(unit)
    guard let manifest = try store.manifest(key) else { return scheduler.missing(unit) }
    let isPresent = try store.isPresent(manifest) && outputIsPresent(unit, key)
    if !isPresent, graph.readers[unit].isEmpty || graph.units[unit].kind == .output {
      return scheduler.missing(unit)
    }
    if state.done.insert(unit).inserted { state.remaining.add(stage(of: unit), seconds: nil) }
    scheduler.found(unit, digest: manifest.digest, isPresent: isPresent)
    try log.append("reused", [("unit", .string(graph.units[unit].id)), ("key", .string(key.hex))])
    report(.reused(unit: graph.units[unit].id, done: state.done.count, total: graph.units.count))
  }

  private func run(
    _ candidates: [Int], _ scheduler: inout Scheduler, _ state: inout RunState, _ log: inout EventLog
  ) throws {
    var isDamaged = false
    for input in Set(candidates.flatMap { graph.units[$0].inputs }).sorted()
    where !state.trusted.contains(input) {
      guard let manifest = try manifest(input, state) else { continue }
      // Bytes that an earlier process wrote are checked once before they are used.
      let damaged = try store.damagedObjects(of: manifest)
      guard damaged.isEmpty else {
        report(
          .note(
            "\(graph.units[input].id): \(damaged.map(\.path).joined(separator: ", ")) has changed since it was written; it is made again."
          ))
        try store.release(manifest.key)
        scheduler.released(input)
        isDamaged = true
        continue
      }
      state.trusted.insert(input)
    }
    if isDamaged { return }
    let units = needs.together(candidates)
    let start = Self.seconds()
    let expected = units.reduce(0.0) { $0 + (state.remaining.seconds(ofUnit: stage(of: $1)) ?? 0) }
    let left = state.remaining.secondsLeft
    for unit in units {
      report(
        .began(
          unit: graph.units[unit].id, done: state.done.count, total: graph.units.count,
          block: graph.units[unit].block, blocks: job.model.blocks.count,
          seconds: left.map { _ in expected }, secondsLater: left.map { max(0, $0 - expected) }))
    }
    let contexts = try units.map { try context($0, scheduler, state) }
    MemoryMeter.reset()
    let buffersBefore = MemoryMeter.byteCount
    let results = try execute(contexts)
    let buffers = MemoryMeter.peak - buffersBefore
    try keys.requireSameFiles()
    for ((unit, context), result) in zip(zip(units, contexts), results) {
      let key = context.key
      let manifest = try store.commit(
        key, components: context.components, content: result.content,
        report: result.report?.json ?? .null)
      let seconds = (Self.seconds() - start) / Double(units.count)
      if state.done.insert(unit).inserted { state.remaining.add(stage(of: unit), seconds: seconds) }
      state.trusted.insert(unit)
      scheduler.committed(unit, digest: manifest.digest)
      try log.append(
        "done",
        [
          ("unit", .string(graph.units[unit].id)), ("key", .string(key.hex)), ("seconds", .number(seconds)),
          ("bytes", .integer(manifest.objects.reduce(0) { $0 + $1.size })),
          ("peak", .integer(Self.peakMemory())), ("buffers", .integer(buffers)),
          ("plannedBuffers", .integer(needs.buffers(units))), ("report", manifest.report),
        ])
      report(
        .committed(
          unit: graph.units[unit].id, done: state.done.count, total: graph.units.count, seconds: seconds,
          report: result.report))
    }
    try keys.save(sparingly: true)
  }

  /// The id of a unit's stage in the recipe.
  private func stage(of unit: Int) -> String { job.recipe.entries[graph.units[unit].entry].id }

  private func execute(_ contexts: [UnitContext]) throws -> [UnitResult] {
    defer {
      job.device.scratch.release()
      returnFreeMemory()
    }
    let first = contexts[0]
    switch first.unit.task {
    case .site, .propagate: return try stream(contexts)
    case .matrix where first.unit.kind == .mask:
      guard let stage = job.recipe.entries[first.unit.entry].role.matrix else { break }
      return try stage.run(contexts).map { UnitResult(report: .matrix($0)) }
    default: break
    }
    return try about(first.unit.id) { [try runAlone(first)] }
  }

  private func runAlone(_ context: UnitContext) throws -> UnitResult {
    switch job.recipe.entries[context.unit.entry].role {
    case .corpus(let stage):
      try stage.run(context)
      return UnitResult(report: .corpus(stage.report(for: job.model)))
    case .source(let stage): return try stage.embed(context)
    case .site: throw EspalierError.internalFault("a site runs without its block.")
    case .allocation(let stage):
      guard context.unit.matrix == nil else {
        try stage.measure(context)
        return UnitResult(report: nil)
      }
      return UnitResult(report: .allocation(try stage.allocate(context)))
    case .matrix: throw EspalierError.internalFault("a matrix was given to a stage of the whole model.")
    case .output(let stage): return UnitResult(report: .output(try stage.run(context)))
    case .evaluation(let stage): return UnitResult(report: .evaluation(try stage.run(context)))
    }
  }

  private func stream(_ contexts: [UnitContext]) throws -> [UnitResult] {
    guard let (entry, source) = job.recipe.stages(\.source).first else {
      throw EspalierError.internalFault("a block streams without a source.")
    }
    var sinks: [Int: any SiteSink] = [:]
    for context in contexts {
      guard case .site(let site) = context.unit.task,
        let stage = job.recipe.entries[context.unit.entry].role.site
      else { continue }
      sinks[site] = try about(context.unit.id) { try stage.sink(context) }
    }
    let hidden = try about("\(job.recipe.entries[entry].id)/\(contexts[0].unit.block ?? 0)") {
      try source.stream(contexts, sinks: sinks)
    }
    return try contexts.map { context in
      if case .site(let site) = context.unit.task, let sink = sinks[site] {
        let report = try about(context.unit.id) { try sink.finish() }
        return UnitResult(content: sink.content, report: .factor(report))
      }
      guard let hidden else { throw EspalierError.internalFault("the source wrote no hidden states.") }
      return hidden
    }
  }

  /// The artifact of a unit that is done.
  ///
  /// Manifests and the parts of keys are not kept but read or computed when they are needed: those of all units of a large graph
  /// take more memory than the graph itself.
  private func manifest(_ unit: Int, _ state: RunState) throws -> Manifest? {
    guard state.done.contains(unit), let key = state.keys[unit] else { return nil }
    guard let manifest = try store.manifest(key) else {
      throw EspalierError(
        .io,
        "the manifest of \(graph.units[unit].id) was changed or removed during the run; run the same command again.",
        subject: job.work)
    }
    return manifest
  }

  private func context(_ unit: Int, _ scheduler: Scheduler, _ state: RunState) throws -> UnitContext {
    let components = try keys.components(unit) { scheduler.digest($0) }
    let key = UnitKeys.key(components)
    guard key == state.keys[unit] else {
      throw EspalierError(
        .io,
        "the inputs of \(graph.units[unit].id) were changed during the run; run the same command again.",
        subject: job.checkpoint.folder)
    }
    let inputs = try graph.units[unit].inputs.compactMap { input in
      try manifest(input, state).map { (unit: graph.units[input], key: $0.key) }
    }
    return UnitContext(
      job: job, unit: graph.units[unit], key: key, components: components, folder: try store.begin(key),
      inputs: inputs, needs: needs, store: store,
      reporter: ProgressReporter(
        unit: graph.units[unit].id, done: state.done.count, total: graph.units.count, handler: report),
      keys: keys)
  }

  private func outputIsPresent(_ unit: Int, _ key: Digest) throws -> Bool {
    guard let stage = job.recipe.entries[graph.units[unit].entry].role.output,
      let output = job.output(of: graph.units[unit])
    else { return true }
    return try stage.isPresent(output, key: key)
  }

  private func startMembers() -> [(key: String, value: JSON)] {
    [
      ("version", .string(Release.description)),
      ("model", .string(job.checkpoint.folder)), ("outputs", .array(job.outputs.map(\.json))),
      ("memory", .integer(job.memory)),
      ("threads", .integer(job.device.threads)), ("arithmetic", job.arithmetic.json),
      ("process", .integer(Int(getpid()))),
      ("units", .integer(graph.units.count)),
      ("stages", .array(job.recipe.entries.map { StageRecord($0).json })), ("expected", remaining.json),
      ("recipe", .string(job.recipe.effectiveText)),
      ("coverage", Coverage(job.checkpoint, job.model, graph: graph).json),
    ] + (forecast.map { [("forecast", $0.json)] } ?? [])
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
