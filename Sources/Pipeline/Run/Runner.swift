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
  private let states: StateStore
  private let crew: Crew
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
    graph = try UnitGraph(recipe: job.recipe, model: job.model, ranks: job.ranks.count)
    store = try ArtifactStore(unprepared: job.work)
    keys = UnitKeys(job: job, graph: graph)
    needs = UnitNeeds(job, graph)
    try RankPlan.check(job, needs, ranks: job.ranks.count)
    states = try StateStore(
      store, scratch: job.scratch,
      shards: (0..<needs.windows.count).filter { $0 % job.ranks.count == job.ranks.rank })
    crew = Crew(
      maker: UnitMaker(job: job, graph: graph, needs: needs, store: store, states: states, keys: keys))
    remaining = try RemainingTime(job.recipe, graph, needs)
    report = progress
  }

  /// Runs what is missing, as one of the ranks of the job.
  ///
  /// - Throws: the first error; all committed units stay.
  public func run() throws {
    do {
      try RankComparison.require(job)
      try job.ranks.rank == 0 ? lead() : lockingScratch(states.folders[...], crew.follow)
    } catch {
      throw job.ranks.fail(error)
    }
  }

  /// The part of the first rank, which decides what is done and commits it.
  private func lead() throws {
    let lock = try FolderLock(folder: job.work)
    defer { withExtendedLifetime(lock) {} }
    do {
      try job.checkOutputs()
      try locking(job.outputs[...]) { try lockingScratch(states.folders[...], runLocked) }
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

  /// Locks the scratch folders of this process while `body` runs.
  private func lockingScratch(_ folders: ArraySlice<String>, _ body: () throws -> Void) throws {
    guard let folder = folders.first else {
      try states.prepare()
      return try body()
    }
    let lock = try FolderLock(folder: folder, .scratch)
    defer { withExtendedLifetime(lock) {} }
    try lockingScratch(folders.dropFirst(), body)
  }

  private func runLocked() throws {
    try store.prepare()
    try crew.begin()
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
    try crew.hash()
    while true {
      try Interruption.check()
      switch scheduler.next() {
      case .lookUp(let unit): try lookUp(unit, &scheduler, &state, &log)
      case .run(let units): try run(units, &scheduler, &state, &log)
      case .release(let unit):
        if let key = state.keys[unit] { try crew.release(key, graph.units[unit]) }
        scheduler.released(unit)
      case .finished:
        try conclude(state)
        let sent = try crew.end()
        if job.ranks.count > 1 {
          try log.append("ranks", [("ranks", .integer(job.ranks.count)), ("sent", .integer(sent))])
        }
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
    let isPresent = try crew.isPresent(manifest, graph.units[unit]) && outputIsPresent(unit, key)
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
      let damaged = try crew.damagedObjects(of: manifest, graph.units[input])
      guard damaged.isEmpty else {
        report(
          .note(
            "\(graph.units[input].id): \(damaged.joined(separator: ", ")) has changed since it was written; it is made again."
          ))
        try crew.release(manifest.key, graph.units[input])
        scheduler.released(input)
        isDamaged = true
        continue
      }
      state.trusted.insert(input)
    }
    if isDamaged { return }
    // Several ranks work on as many matrices as there are.
    let isSpread = job.ranks.count > 1 && graph.units[candidates[0]].kind == .mask
    let units = isSpread ? candidates : needs.together(candidates)
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
    let shares = needs.shares(of: units, ranks: job.ranks.count)
    let orders = try zip(units, shares).map { try order($0, $1, scheduler, state) }
    MemoryMeter.reset()
    let buffersBefore = MemoryMeter.byteCount
    let products = try crew.make(orders, report: report)
    let buffers = MemoryMeter.peak - buffersBefore
    try keys.requireSameFiles()
    for (order, product) in zip(orders, products) {
      let unit = order.unit
      let key = order.key
      let (content, report) = (product.result?.content, product.result?.report)
      let commit = states.isApart && graph.units[unit].kind == .hidden ? store.record : store.commit
      let manifest = try commit(key, order.components, product.objects, content, report?.json ?? .null)
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
      self.report(
        .committed(
          unit: graph.units[unit].id, done: state.done.count, total: graph.units.count, seconds: seconds,
          report: report))
    }
    try keys.save(sparingly: true)
  }

  /// The id of a unit's stage in the recipe.
  private func stage(of unit: Int) -> String { job.recipe.entries[graph.units[unit].entry].id }

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

  private func order(
    _ unit: Int, _ shares: RowShares, _ scheduler: Scheduler, _ state: RunState
  ) throws -> UnitOrder {
    let components = try keys.components(unit) { scheduler.digest($0) }
    let key = UnitKeys.key(components)
    guard key == state.keys[unit] else {
      throw EspalierError(
        .io,
        "the inputs of \(graph.units[unit].id) were changed during the run; run the same command again.",
        subject: job.checkpoint.folder)
    }
    let inputs = try graph.units[unit].inputs.compactMap { input in
      try manifest(input, state).map { (unit: input, key: $0.key) }
    }
    return UnitOrder(unit: unit, key: key, components: components, inputs: inputs, shares: shares)
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
