import EspalierCore
import EspalierIO
import Synchronization

/// Makes units: has stages work on them, and leaves what they wrote for the first rank to commit.
struct UnitMaker: Sendable {
  let job: Job
  let graph: UnitGraph
  let needs: UnitNeeds
  let store: ArtifactStore
  let states: StateStore
  let keys: UnitKeys
  let traffic = Traffic()

  /// Makes what this rank has to make of some units.
  ///
  /// - Parameter report: told what happens.
  func make(_ orders: [UnitOrder], report: @escaping @Sendable (ProgressEvent) -> Void) throws
    -> [UnitProduct]
  {
    guard let first = orders.first else { return [] }
    if graph.units[first.unit].goesInShards {
      // Other ranks have no windows.
      return job.ranks.rank < needs.windows.count ? try makeTogether(orders, report) : []
    }
    // All help to write it.
    if isSharedOutput(first.unit) { return try makeTogether(orders, report) }
    var left = orders.filter { $0.shares.involves(job.ranks.rank) }
    var products: [UnitProduct] = []
    while !left.isEmpty {
      let together = Set(needs.together(left.map(\.unit)))
      products += try makeTogether(left.filter { together.contains($0.unit) }, report)
      left.removeAll { together.contains($0.unit) }
    }
    return products
  }

  private func isSharedOutput(_ unit: Int) -> Bool {
    job.recipe.entries[graph.units[unit].entry].role.output?.isShared ?? false
  }

  private func makeTogether(
    _ orders: [UnitOrder], _ report: @escaping @Sendable (ProgressEvent) -> Void
  ) throws -> [UnitProduct] {
    let contexts = try orders.map { try context($0, report) }
    let results = try execute(contexts)
    return try zip(zip(orders, contexts), results).map { pair, result in
      let (order, context) = pair
      var product = UnitProduct(unit: order.unit, objects: [], result: context.isOwner ? result : nil)
      if states.isApart, context.unit.kind == .hidden {
        product.objects = try states.commit(order.key, components: order.components)
      } else if context.isOwner {
        product.objects = try store.written(order.key)
      }
      if states.isApart, context.unit.goesInShards, context.unit.kind != .hidden { try states.end(order.key) }
      return product
    }
  }

  private func context(
    _ order: UnitOrder, _ report: @escaping @Sendable (ProgressEvent) -> Void
  ) throws -> UnitContext {
    let unit = graph.units[order.unit]
    // What is not committed from here goes to the scratch folder.
    let scratch = states.isApart && unit.goesInShards ? try states.begin(order.key) : nil
    let isHere = order.shares.owner == job.ranks.rank && !(states.isApart && unit.kind == .hidden)
    // Who helps with rows writes nothing.
    let folder = isHere ? try store.begin(order.key) : scratch ?? store.partialPath(order.key)
    return UnitContext(
      job: job, unit: unit, key: order.key, components: order.components, folder: folder,
      scratch: scratch ?? folder, inputs: order.inputs.map { (graph.units[$0.unit], $0.key) }, needs: needs,
      store: store, states: states, reporter: ProgressReporter(unit: unit.id, handler: report), keys: keys,
      shares: order.shares, traffic: traffic)
  }

  // MARK: - Stages

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
      guard let site = context.unit.streamedSite,
        let stage = job.recipe.entries[context.unit.entry].role.site
      else { continue }
      sinks[site] = try about(context.unit.id) { try stage.sink(context) }
    }
    let hidden = try about("\(job.recipe.entries[entry].id)/\(contexts[0].unit.block ?? 0)") {
      try source.stream(contexts, sinks: sinks)
    }
    return try contexts.map { context in
      if let site = context.unit.streamedSite, let sink = sinks[site] {
        let report = try about(context.unit.id) { try sink.finish() }
        return UnitResult(content: sink.content, report: .factor(report))
      }
      guard let hidden else { throw EspalierError.internalFault("the source wrote no hidden states.") }
      return hidden
    }
  }
}
