import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierPipeline

/// Mixtures of experts: a block has hundreds of sites, and a tensor may hold many matrices.
@Suite struct MixtureTests {
  private static let stages = """
    stages:
      - words: {corpus: CORPUS, length: 8}
      - stream: STREAM
      - sum: {memory: 1000}
      - first
      - better
      - write

    """

  private func job(
    _ mixture: MixtureCheckpoint, _ folder: TemporaryFolder, stream: String = "{propagate: pruned}",
    stages: String = stages, memory: Int = 1 << 30
  ) throws -> Job {
    if try Folder.entry(folder.path + "/model") == nil {
      try mixture.write(to: folder.path + "/model")
      try Probe.write("once", to: folder.path + "/corpus")
    }
    let text = stages.replacing("CORPUS", with: folder.path + "/corpus").replacing("STREAM", with: stream)
    return try Job(
      recipe: Recipe(text: text, source: "r", registry: Probe.registry),
      checkpoint: Checkpoint(folder: folder.path + "/model"), model: mixture.outline,
      output: folder.path + "/out", work: folder.path + "/work", memory: memory, device: device,
      arithmetic: arithmetic)
  }

  /// As many units as a published mixture has: an algorithm of quadratic time would take hours.
  @Test(.timeLimit(.minutes(10)), arguments: ["{propagate: pruned}", "{propagate: dense}"])
  func aLargeMixtureIsPlanned(stream: String) throws {
    var mixture = MixtureCheckpoint()
    (mixture.blocks, mixture.experts) = (MixtureCheckpoint.large.blocks, MixtureCheckpoint.large.experts)
    let folder = try TemporaryFolder()
    let plan = try Planner.plan(try job(mixture, folder, stream: stream))
    #expect(plan.stages.map(\.units) == [1, 94, 94 * 258, 94 * 388, 94 * 388, 1])
    // The graph and the tables also take memory.
    let held = plan.peakMemory - 1 - 258 * 1000
    #expect(held > Planner.processBytes + 200 << 20 && held < Planner.processBytes + 400 << 20)
  }

  /// Every step of a schedule looks at few units.
  @Test(arguments: ["{propagate: pruned}", "{propagate: dense}"], [1, 3, 1000])
  func schedulesAreLinear(stream: String, together: Int) throws {
    var visits: [Double] = []
    for blocks in [2, 8, 32] {
      var mixture = MixtureCheckpoint()
      mixture.blocks = blocks
      let folder = try TemporaryFolder()
      let job = try job(mixture, folder, stream: stream)
      let graph = try UnitGraph(recipe: job.recipe, model: job.model)
      for isKnown in [false, true] {
        var scheduler = Scheduler(graph: graph)
        try drive(&scheduler, graph, together: together, isKnown: isKnown)
        visits.append(Double(scheduler.visits) / Double(graph.units.count))
      }
    }
    // A block has ten sites, which are looked at each time it streams.
    #expect(visits.allSatisfy { $0 < 16 }, "\(visits)")
  }

  /// - Parameter isKnown: whether an earlier run made all units but the last, and their bytes were lost.
  private func drive(_ scheduler: inout Scheduler, _ graph: UnitGraph, together: Int, isKnown: Bool) throws {
    var made = [Int](repeating: 0, count: graph.units.count)
    loop: while true {
      switch scheduler.next() {
      case .lookUp(let unit):
        if isKnown, unit < graph.units.count - 1 {
          scheduler.found(unit, digest: digest(unit), isPresent: false)
        } else {
          scheduler.missing(unit)
        }
      case .run(let units):
        for unit in units.prefix(together) {
          made[unit] += 1
          scheduler.committed(unit, digest: digest(unit))
        }
      case .release(let unit): scheduler.released(unit)
      case .finished: break loop
      }
    }
    #expect(made.allSatisfy { $0 == 1 })
  }

  private func digest(_ unit: Int) -> Digest { SHA256.digest(of: "\(unit)") }

  /// Stages are asked once for all units with the same sizes; each unit would get the same answer.
  @Test(arguments: [false, true]) func unitsOfOneShapeNeedTheSame(isStacked: Bool) throws {
    var mixture = MixtureCheckpoint()
    mixture.isStacked = isStacked
    let folder = try TemporaryFolder()
    let job = try job(mixture, folder)
    let graph = try UnitGraph(recipe: job.recipe, model: job.model)
    let needs = UnitNeeds(job, graph)
    for (index, unit) in graph.units.enumerated() {
      let stage = job.recipe.entries[unit.entry].stage
      let sizes = needs.sizes(unit)
      #expect(needs.artifactBytes(index) == stage.artifactBytes(sizes))
      #expect(needs.work(index) == stage.work(sizes))
      let source = unit.kind == .factor ? 1 : 0
      #expect(needs.workingSet(index).total == stage.workingSet(sizes).total + source)
      if let matrix = sizes.matrix {
        #expect(sizes.tensorBytes == 2 * matrix.parameters && sizes.factorBytes == 1000)
      }
    }
  }

  /// If only some factors fit into memory, the block streams several times.
  @Test func sitesStreamInLots() throws {
    let folder = try TemporaryFolder()
    let memory = Planner.processBytes + 1 + 4 * 1000
    let job = try job(MixtureCheckpoint(), folder, memory: memory)
    let graph = try UnitGraph(recipe: job.recipe, model: job.model)
    let needs = UnitNeeds(job, graph)
    let factors = graph.units.indices.filter { graph.units[$0].kind == .factor && graph.units[$0].block == 0 }
    #expect(factors.count == 10 && needs.together(factors) == Array(factors.prefix(4)))
    #expect(needs.memory(needs.together(factors)) == memory - Planner.processBytes)
    let tight = try Planner.plan(job).stages.map(\.work.readBytes)
    let wide = try Planner.plan(try self.job(MixtureCheckpoint(), folder)).stages.map(\.work.readBytes)
    let hidden = 2 * 8 * 16 * 4
    let blocks = job.model.blocks.reduce(0) { $0 + UnitNeeds.bytes(of: $1.tensors.keys, job.checkpoint) }
    #expect(tight[1] - wide[1] == 2 * (2 * hidden + blocks))
    #expect(tight.enumerated().allSatisfy { $0 == 1 || $1 == wide[$0] })
  }

  @Test func matricesOfOneTensorAreToldApart() throws {
    var mixture = MixtureCheckpoint()
    mixture.isStacked = true
    let folder = try TemporaryFolder()
    let job = try job(mixture, folder)
    let graph = try UnitGraph(recipe: job.recipe, model: job.model)
    let masks = graph.units.filter { $0.kind == .mask }
    #expect(masks.count == 2 * 2 * (4 + 4 * 2) && Set(masks.map(\.id)).count == masks.count)
    let keys = UnitKeys(job: job, graph: graph)
    func components(_ id: String) throws -> JSON {
      try keys.components(try #require(graph.index(of: id))) { digest($0) }
    }
    let third = try components("better/model.layers.1.mlp.experts.3.down_proj")
    let place = "model.layers.1.mlp.experts.down_proj part 3"
    #expect(third["place"]?.string == place)
    #expect(third["inputs"]?["mask \(place)"] != nil)
    let second = try components("better/model.layers.1.mlp.experts.2.down_proj")
    #expect(third["tensors"]?.string == second["tensors"]?.string)
    #expect(UnitKeys.key(third) != UnitKeys.key(second))
    #expect(
      try components("first/model.layers.1.self_attn.o_proj")["place"]?.string
        == "model.layers.1.self_attn.o_proj.weight")
    // The digest of a block is the digest of its tensors by name.
    let digests = SourceDigests(checkpoint: job.checkpoint, work: job.work)
    for block in job.model.blocks {
      let names = block.tensors.keys.sorted()
      for _ in 0..<2 {
        #expect(try digests.block(block.index, of: job.model) == digests.tensors(names))
      }
    }
  }
}
