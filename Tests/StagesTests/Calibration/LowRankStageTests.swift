import EspalierCore
import EspalierIO
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Testing

/// Recipes whose factors are of low rank.
@Suite(.serialized) struct LowRankStageTests {
  static let chains = [
    ["warmStart: {sparsity: 0.5}", "swap"], ["warmStart: {keep: 2, of: 4}", "swap: {moves: group}"],
    ["warmStart: {sparsity: 0.5}", "swap: {budget: matrix}"],
    ["warmStart: {sparsity: 0.5}", "swap: {holdOut: 0.2}"],
    ["warmStart: {sparsity: 0.5}", "frankWolfe: {alpha: 0, iterations: 50}"],
    ["warmStart: {sparsity: 0.5}", "frankWolfe: {step: pairwise, iterations: 3, budget: matrix}"],
    ["warmStart: {sparsity: 0.5}", "dsnot", "reconstruct"], ["sparseGPT: {sparsity: 0.5}"],
    ["admm: {keep: 2, of: 4}"],
    ["allocate: {method: error, sparsity: 0.5}", "warmStart: {sparsity: allocated}"],
  ]

  private func losses(_ bench: Workbench, _ chain: [String], _ factor: String, _ name: String) throws
    -> [Double]
  {
    let output = try bench.run(
      bench.recipe(
        chain.joined(separator: "\n  - "), capture: "{propagate: dense}", factor: factor, samples: 10),
      output: name, work: "work-\(name)")
    #expect(try Verification(folder: output).findings.isEmpty)
    return try RunReport(work: bench.folder.path + "/work-\(name)").matrices.map {
      $0.steps.last?.report.lossAfter ?? -1
    }
  }

  /// A factor of full rank is the Gram matrix, whatever reads it; one of lower rank still gives a whole, exact run.
  @Test(arguments: chains)
  func everyStageWorksFromAFactor(chain: [String]) throws {
    let bench = try Workbench()
    let whole = try losses(bench, chain, "{}", "whole")
    let full = try losses(bench, chain, "{kind: svd, rank: 64}", "full")
    #expect(whole.count == 14 && full.count == 14)
    for (a, b) in zip(whole, full) { #expect(abs(a - b) <= 0.02 * a + 1e-4) }
    #expect(try losses(bench, chain, "{kind: svd, rank: 5}", "low").allSatisfy { $0 >= 0 })
  }
}
