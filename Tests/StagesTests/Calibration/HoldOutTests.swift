import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Testing

/// Calibration windows that are kept apart from the factor.
@Suite(.serialized) struct HoldOutTests {
  private func tensors(_ bench: Workbench, _ work: String) throws -> [String: [Float]] {
    let store = try ArtifactStore(existing: bench.folder.path + "/" + work)
    var found: [String: [Float]] = [:]
    for manifest in try store.manifests() {
      guard manifest.components["stage"]?.string == "factor",
        let place = manifest.components["place"]?.string,
        place.hasPrefix("block 0 ")
      else { continue }
      let file = try SafetensorsFile(path: store.path(manifest.key, "factor.safetensors"))
      for tensor in file.header.tensors where tensor.dtype == .f32 {
        found["\(place) \(tensor.name)"] = try file.tensor(tensor.name).floats().array()
      }
    }
    return found
  }

  /// What is kept apart and what is not add up to the whole.
  @Test func nothingIsLost() throws {
    let bench = try Workbench()
    let capture = "{propagate: dense}"
    try bench.run(
      bench.recipe("warmStart: {sparsity: 0.5}", capture: capture, samples: 10), output: "a", work: "whole")
    try bench.run(
      bench.recipe("warmStart: {sparsity: 0.5}", "swap: {holdOut: 0.3}", capture: capture, samples: 10),
      output: "b", work: "apart")
    let (whole, apart) = (try tensors(bench, "whole"), try tensors(bench, "apart"))
    #expect(whole.count == 4 && apart.count == 8)
    for (name, gram) in whole {
      let rest = try #require(apart[name])
      let heldOut = try #require(apart[name.replacing(" gram", with: " heldOut")])
      let largest = gram.map(abs).max() ?? 0
      for index in gram.indices {
        #expect(abs(gram[index] - rest[index] - heldOut[index]) <= 1e-5 * largest)
      }
      #expect(heldOut[0] > 0 && heldOut[0] < rest[0])
    }
  }

  /// A factor with windows kept apart is another one.
  @Test func theShareIsPartOfTheKey() throws {
    let bench = try Workbench()
    let capture = "{propagate: dense}"
    let first = bench.recipe(
      "warmStart: {sparsity: 0.5}", "swap: {holdOut: 0.2}", capture: capture, samples: 10)
    _ = try bench.computedUnits(first)
    #expect(try bench.computedUnits(first).isEmpty)
    let units = try bench.computedUnits(
      bench.recipe("warmStart: {sparsity: 0.5}", "swap: {holdOut: 0.4}", capture: capture, samples: 10),
      output: "other")
    #expect(units.count { $0.hasPrefix("factor") } == 8 && !units.contains("tokenize"))
  }
}
