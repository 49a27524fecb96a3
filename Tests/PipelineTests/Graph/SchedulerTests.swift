import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierPipeline

/// Simulates a work folder and a runner without files.
private struct SimulatedStore {
  struct Artifact {
    var digest: Digest
    var isPresent: Bool
    /// Damaged bytes of the right size, which are only found when they are read.
    var isDamaged = false
  }

  struct Failure: Error { let text: String }

  let graph: UnitGraph
  /// By key.
  var artifacts: [String: Artifact] = [:]
  /// How often each unit was made in all runs.
  var made: [Int]
  /// Units that give other bytes each time.
  var restless: Set<Int> = []
  var actions = 0
  /// Ends the run at this action.
  var crash: Int?

  init(_ graph: UnitGraph) {
    self.graph = graph
    made = [Int](repeating: 0, count: graph.units.count)
  }

  func key(_ unit: Int, _ scheduler: Scheduler) throws -> String {
    try "\(graph.units[unit].id):"
      + graph.units[unit].inputs.map { input in
        guard let digest = scheduler.digest(input) else {
          throw Failure(text: "\(unit) is looked up before its input \(input) is known")
        }
        return digest.hex
      }.joined(separator: ",")
  }

  /// One run; false if the crash ended it.
  mutating func run(sites: Int = .max) throws -> (isFinished: Bool, digests: [Digest?]) {
    var scheduler = Scheduler(graph: graph)
    var keys: [Int: String] = [:]
    var checked: Set<String> = []
    let limit = actions + 40 * (graph.units.count + 1) * (graph.units.count + 1)
    while true {
      actions += 1
      guard actions < limit else { throw Failure(text: "it does not end") }
      if actions == crash { return (false, []) }
      switch scheduler.next() {
      case .lookUp(let unit):
        let key = try key(unit, scheduler)
        keys[unit] = key
        if let artifact = artifacts[key], artifact.isPresent || !graph.readers[unit].isEmpty {
          scheduler.found(unit, digest: artifact.digest, isPresent: artifact.isPresent)
        } else {
          scheduler.missing(unit)
        }
      case .run(let units): try run(Array(units.prefix(sites)), &scheduler, keys, &checked)
      case .release(let unit):
        try require(graph.units[unit].isTransient, "\(unit) is not transient, but released")
        try require(
          graph.readers[unit].allSatisfy { scheduler.digest($0) != nil },
          "\(unit) is released before its readers are known")
        artifacts[keys[unit] ?? ""]?.isPresent = false
        scheduler.released(unit)
      case .finished: return (true, graph.units.indices.map { scheduler.digest($0) })
      }
    }
  }

  private mutating func run(
    _ units: [Int], _ scheduler: inout Scheduler, _ keys: [Int: String], _ checked: inout Set<String>
  ) throws {
    try require(!units.isEmpty && Set(units).count == units.count, "nothing or something twice is run")
    let pass = graph.units[units[0]].pass
    try require(
      units.count == 1 || units.allSatisfy { graph.units[$0].pass == pass && pass != nil },
      "\(units) are of several passes")
    var isDamaged = false
    for input in Set(units.flatMap { graph.units[$0].inputs }) {
      let key = keys[input] ?? ""
      guard let artifact = artifacts[key], artifact.isPresent else {
        throw Failure(text: "\(units) are run without the bytes of \(input)")
      }
      try require(
        artifact.digest == scheduler.digest(input), "the digest of \(input) is not that of its artifact")
      if artifact.isDamaged, checked.insert(key).inserted {
        artifacts[key]?.isPresent = false
        artifacts[key]?.isDamaged = false
        scheduler.released(input)
        isDamaged = true
      }
    }
    if isDamaged { return }
    for unit in units {
      let key = try key(unit, scheduler)
      try require(keys[unit] == key, "\(unit) is run under the key of other inputs")
      try require(artifacts[key]?.isPresent != true, "\(unit) is there and made again")
      // A crash between two commits of a pass.
      actions += 1
      if actions == crash {
        crash = actions + 1
        return
      }
      made[unit] += 1
      let salt = restless.contains(unit) ? "\(made[unit] % 2)" : ""
      let digest = SHA256.digest(of: key + salt)
      artifacts[key] = .init(digest: digest, isPresent: true)
      checked.insert(key)
      scheduler.committed(unit, digest: digest)
    }
  }

  /// The artifact of a unit after a finished run.
  func artifact(_ unit: Int, _ digests: [Digest?]) -> Artifact? {
    artifacts[
      "\(graph.units[unit].id):"
        + graph.units[unit].inputs.map { digests[$0]?.hex ?? "" }.joined(separator: ",")]
  }

  private func require(_ condition: Bool, _ text: String) throws {
    if !condition { throw Failure(text: text) }
  }

  /// Deletes or damages some bytes, or removes a manifest.
  mutating func harm(_ random: inout SeededRandom) {
    for key in artifacts.keys.sorted() {
      switch Int.random(in: 0..<12, using: &random) {
      case 0: artifacts[key]?.isPresent = false
      case 1: artifacts[key]?.isDamaged = true
      case 2: artifacts[key] = nil
      default: break
      }
    }
  }
}

@Suite struct SchedulerTests {
  /// A random graph. As in real graphs, units of a pass have the same inputs and do not read each other.
  private func graph(_ random: inout SeededRandom) -> UnitGraph {
    let count = Int.random(in: 1...14, using: &random)
    var units: [Unit] = []
    var pass = 0
    while units.count < count {
      let earlier = Array(units.indices).suffix(Int.random(in: 1...8, using: &random))
      let inputs = earlier.filter { _ in Int.random(in: 0..<3, using: &random) == 0 }
      let mates = Int.random(in: 0..<3, using: &random) == 0 ? Int.random(in: 1...3, using: &random) : 0
      pass += 1
      for _ in 0...mates where units.count < count {
        units.append(
          Unit(
            id: "u\(units.count)", entry: 0, task: .model, block: nil, kind: .mask, inputs: Array(inputs),
            tensors: .none,
            pass: mates > 0 ? pass : nil, isTransient: Int.random(in: 0..<2, using: &random) == 0, holdOut: 0)
        )
      }
    }
    // A unit without readers is not transient; `UnitGraphTests` checks that for real graphs.
    let read = Set(units.flatMap(\.inputs))
    return UnitGraph(
      units: units.enumerated().map { index, unit in
        Unit(
          id: unit.id, entry: 0, task: unit.task, block: nil, kind: unit.kind, inputs: unit.inputs,
          tensors: .none,
          pass: unit.pass, isTransient: unit.isTransient && read.contains(index), holdOut: 0)
      })
  }

  private func realGraph(_ dense: Bool, _ blocks: Int) throws -> UnitGraph {
    var checkpoint = ProbeBench.checkpoint
    checkpoint.blocks = blocks
    let text = (dense ? ProbeBench.dense : ProbeBench.recipe)
    return try UnitGraph(
      recipe: Recipe(text: text, source: "r", registry: Probe.registry), model: ProbeBench.outline(checkpoint)
    )
  }

  @Test func anUninterruptedRunMakesEveryUnitOnceAndFreesWhatItCan() throws {
    for seed in 0..<1000 {
      var random = SeededRandom(seed: UInt64(seed))
      let graph = graph(&random)
      var store = SimulatedStore(graph)
      let first = try store.run(sites: Int.random(in: 1...4, using: &random))
      #expect(store.made.allSatisfy { $0 == 1 }, "seed \(seed)")
      for artifact in store.artifacts {
        let unit = try #require(graph.units.first { artifact.key.hasPrefix($0.id + ":") })
        #expect(artifact.value.isPresent != unit.isTransient, "seed \(seed): \(unit.id)")
      }
      let made = store.made
      let second = try store.run()
      #expect(second.digests == first.digests)
      #expect(store.made == made, "seed \(seed)")
    }
  }

  /// After crashes at any action and lost or damaged bytes, runs end with the same digests.
  @Test func whateverHappensTheEndIsTheSame() throws {
    for seed in 0..<3000 {
      var random = SeededRandom(seed: UInt64(seed) + 1_000_000)
      let graph = graph(&random)
      var calm = SimulatedStore(graph)
      let expected = try calm.run().digests
      var store = SimulatedStore(graph)
      for _ in 0..<Int.random(in: 0...5, using: &random) {
        store.crash = store.actions + Int.random(in: 1...40, using: &random)
        do {
          _ = try store.run(sites: Int.random(in: 1...4, using: &random))
        } catch let failure as SimulatedStore.Failure {
          Issue.record("seed \(seed): \(failure.text)")
        }
        if Bool.random(using: &random) { store.harm(&random) }
      }
      store.crash = nil
      do {
        let end = try store.run()
        #expect(end.isFinished && end.digests == expected, "seed \(seed)")
        for unit in graph.units.indices where graph.units[unit].isTransient {
          #expect(store.artifact(unit, expected)?.isPresent == false, "seed \(seed): \(unit) is not freed")
        }
      } catch let failure as SimulatedStore.Failure {
        Issue.record("seed \(seed): \(failure.text)")
      }
    }
  }

  /// If a unit gives other bytes when it is made again, everything made from the old bytes is looked up again.
  @Test func changedBytesReachEveryReader() throws {
    for seed in 0..<2000 {
      var random = SeededRandom(seed: UInt64(seed) + 2_000_000)
      let graph = graph(&random)
      var store = SimulatedStore(graph)
      store.restless = Set(graph.units.indices.filter { _ in Int.random(in: 0..<3, using: &random) == 0 })
      do {
        for _ in 0..<3 {
          store.crash = store.actions + Int.random(in: 1...60, using: &random)
          _ = try store.run(sites: Int.random(in: 1...4, using: &random))
          store.harm(&random)
        }
        store.crash = nil
        let end = try store.run()
        #expect(end.isFinished && end.digests.allSatisfy { $0 != nil }, "seed \(seed)")
        // Every digest follows from the digests of the inputs.
        for (unit, digest) in end.digests.enumerated() {
          let artifact = store.artifact(unit, end.digests)
          #expect(artifact?.digest == digest, "seed \(seed)")
          #expect(
            !graph.units[unit].isTransient || artifact?.isPresent == false,
            "seed \(seed): \(unit) is not freed")
        }
      } catch let failure as SimulatedStore.Failure {
        Issue.record("seed \(seed): \(failure.text)")
      }
    }
  }

  @Test(arguments: [false, true]) func sitesOfABlockStreamTogether(dense: Bool) throws {
    let graph = try realGraph(dense, 3)
    var scheduler = Scheduler(graph: graph)
    var runs: [String] = []
    loop: while true {
      switch scheduler.next() {
      case .lookUp(let unit): scheduler.missing(unit)
      case .run(let units):
        runs.append(units.map { graph.units[$0].id }.joined(separator: " "))
        for unit in units { scheduler.committed(unit, digest: SHA256.digest(of: "\(unit)")) }
      case .release(let unit): scheduler.released(unit)
      case .finished: break loop
      }
    }
    let passes = runs.filter { $0.hasPrefix("sum") }
    #expect(
      passes
        == (dense
          ? [
            "sum/0/attention sum/0/down stream/0", "sum/1/attention sum/1/down stream/1",
            "sum/2/attention sum/2/down",
          ]
          : ["sum/0/attention sum/0/down", "sum/1/attention sum/1/down", "sum/2/attention sum/2/down"]))
  }

  /// If two masks of the last block are damaged, the blocks stream once more, not twice.
  @Test(arguments: [false, true]) func whatSeveralUnitsNeedIsMadeAgainOnce(dense: Bool) throws {
    let graph = try realGraph(dense, 3)
    var store = SimulatedStore(graph)
    _ = try store.run()
    for (key, artifact) in store.artifacts {
      if key.hasPrefix("write") || key.hasPrefix("score") {
        store.artifacts[key] = nil
      } else if key.hasPrefix("better/model.layers.2") {
        store.artifacts[key]?.isDamaged = true
      } else if key.hasPrefix("sum") {
        store.artifacts[key]?.isPresent = false
      }
      _ = artifact
    }
    _ = try store.run()
    #expect(store.made.allSatisfy { $0 <= 2 })
    for (unit, made) in zip(graph.units, store.made) where unit.kind == .hidden {
      #expect(made == 2, "\(unit.id)")
    }
    #expect(store.artifacts.filter { $0.key.hasPrefix("stream") }.allSatisfy { !$0.value.isPresent })
  }

  /// A run was stopped after the last reader and before the release.
  @Test func leftBehindBytesAreFreed() throws {
    let graph = try realGraph(false, 2)
    var store = SimulatedStore(graph)
    _ = try store.run()
    for key in store.artifacts.keys { store.artifacts[key]?.isPresent = true }
    let made = store.made
    _ = try store.run()
    #expect(store.made == made)
    for (key, artifact) in store.artifacts {
      let unit = try #require(graph.units.first { key.hasPrefix($0.id + ":") })
      #expect(artifact.isPresent == !unit.isTransient, "\(unit.id)")
    }
  }
}
