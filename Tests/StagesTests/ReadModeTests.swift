import EspalierCore
import EspalierIO
import EspalierModels
import EspalierPipeline
import EspalierTestSupport
import Synchronization
import Testing

/// Shards that are read on request and not mapped.
@Suite struct ReadModeTests {
  @Test(arguments: [DType.f32, .bf16, .f16]) func bothWaysGiveTheSameBytes(_ dtype: DType) throws {
    var checkpoint = TinyCheckpoint()
    checkpoint.dtype = dtype
    checkpoint.shards = 2
    let bench = try Workbench(checkpoint)
    let recipe = bench.recipe(
      "warmStart: {keep: 2, of: 4}", "swap", "frankWolfe: {iterations: 20}", "reconstruct",
      last: "  - evaluate: {text: \"\(bench.corpus)\", length: 32, windows: 4, dense: true}")
    _ = try bench.computedUnits(recipe, output: "mapped", work: "mapped.work")
    _ = try bench.computedUnits(recipe, output: "read", work: "read.work", reading: .pread)
    let files = try bench.digest(bench.folder.path + "/mapped")
    #expect(files.count > 5)
    #expect(try bench.digest(bench.folder.path + "/read") == files)
    // The same keys, and the same measurements.
    let again = try bench.computedUnits(recipe, output: "again", work: "mapped.work", reading: .pread)
    #expect(again.allSatisfy { $0.hasPrefix("emit") }, "\(again)")
  }

  @Test(arguments: ReadMode.allCases) func aShardIsMappedOrNot(_ mode: ReadMode) throws {
    let bench = try Workbench()
    let seen = Mutex<Set<Bool>>([])
    try Runner(try bench.job(bench.recipe("warmStart: {sparsity: 0.5}"), reading: mode)) { event in
      guard case .committed = event else { return }
      seen.withLock { _ = $0.insert(Places.isMapped(bench.model + "/model.safetensors")) }
    }.run()
    #expect(seen.withLock { $0 } == [mode == .map])
  }

  /// Whatever the unit that reads, embeddings row by row, products, searches or the output, the file and the place are named.
  @Test(arguments: [
    "capture/embed", "capture/0", "factor/1", "warmStart/model.layers.1", "swap/model.layers.1", "emit",
  ])
  func aShardThatBecomesShorterIsAnError(_ place: String) throws {
    let bench = try Workbench()
    let shard = bench.model + "/model.safetensors"
    let recipe = bench.recipe("warmStart: {sparsity: 0.5}", "swap")
    let didShrink = Mutex(false)
    let (message, exitCode) = bench.failure {
      try Runner(try bench.job(recipe, reading: .pread)) { event in
        guard case .began(let unit, _, _, _, _, _, _) = event, unit.hasPrefix(place),
          let file = try? File(writing: shard), (try? file.resize(to: 4096)) != nil
        else { return }
        didShrink.withLock { $0 = true }
      }.run()
    }
    #expect(didShrink.withLock { $0 })
    #expect(exitCode == 74 && message.contains("\(shard): the file ends before byte"), "\(message)")
    #expect(try Folder.entry(bench.folder.path + "/out") == nil)
  }
}
