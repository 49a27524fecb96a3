import EspalierCore
import EspalierIO
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Testing

/// Recipes with Frank-Wolfe: chains, certificates and the choice of alpha.
@Suite(.serialized) struct FrankWolfeStageTests {
  @Test(arguments: ["{sparsity: 0.5}", "{keep: 2, of: 4}"])
  func theCertificateGoesDownTheChain(start: String) throws {
    let bench = try Workbench()
    let output = try bench.run(
      bench.recipe("warmStart: \(start)", "frankWolfe: {alpha: 0, iterations: 200}", "swap"))
    #expect(try Verification(folder: output, on: device).findings.isEmpty)
    let report = try RunReport(work: bench.folder.path + "/work")
    for matrix in report.matrices {
      let (relaxed, swapped) = (matrix.steps[1].report, matrix.steps[2].report)
      let bound = try #require(relaxed.lowerBound)
      #expect(swapped.lowerBound == bound && bound >= 0)
      let (before, after) = (try #require(relaxed.lossAfter), try #require(swapped.lossAfter))
      #expect(bound <= after * (1 + 1e-6) && after <= before * (1 + 1e-6))
      #expect(try #require(swapped.certifiedGap) <= #require(relaxed.certifiedGap) + 1e-9)
    }
    // Row by row: no bound lies above the loss of its row.
    let store = try ArtifactStore(existing: bench.folder.path + "/work")
    var files = 0
    for manifest in try store.manifests() where manifest.matrixReport?.lowerBound != nil {
      let file = try SafetensorsFile(path: store.path(manifest.key, "certificate.safetensors"))
      let (bounds, losses) = (
        try file.tensor("lowerBounds").doubles(), try file.tensor("losses").doubles()
      )
      let report = try #require(manifest.matrixReport)
      #expect(bounds.count == losses.count && bounds.count == report.rows)
      for (bound, loss) in zip(bounds, losses) { #expect(bound >= 0 && bound <= loss * (1 + 1e-9) + 1e-12) }
      let sum = try #require(report.lossAfter)
      #expect(abs(losses.reduce(0, +) - sum) <= 1e-5 * sum)
      #expect(report.details["mostGapOfARow"]?.double ?? 2 <= 1)
      files += 1
    }
    #expect(files == 28)
    let total = try #require(report.totals.first { $0.stage == "swap" })
    #expect((0..<1).contains(try #require(total.certifiedGap)))
  }

  /// A bound of rows says nothing once weights may leave their row; one of the matrix holds for both.
  @Test func boundsHoldOnlyWhereTheyWereProven() throws {
    let bench = try Workbench()
    try bench.run(
      bench.recipe(
        "warmStart: {sparsity: 0.5}", "frankWolfe: {alpha: 0, iterations: 100}", "swap: {budget: matrix}"),
      output: "a", work: "work-a")
    let rows = try RunReport(work: bench.folder.path + "/work-a")
    #expect(
      rows.matrices.allSatisfy {
        $0.steps[1].report.lowerBound != nil && $0.steps[2].report.lowerBound == nil
      })
    try bench.run(
      bench.recipe(
        "warmStart: {sparsity: 0.5}", "frankWolfe: {alpha: 0, iterations: 100, budget: matrix}",
        "swap: {budget: matrix}"), output: "b", work: "work-b")
    let whole = try RunReport(work: bench.folder.path + "/work-b")
    for (a, b) in zip(rows.matrices, whole.matrices) {
      #expect(b.steps[2].report.lowerBound != nil && b.steps[2].report.pattern == .matrix(sparsity: 0.5))
      // More masks to choose from: what can be proven is no more.
      if a.name.contains("layers.0.") {
        #expect(
          try #require(b.steps[1].report.lowerBound) <= #require(a.steps[1].report.lowerBound) * (1 + 1e-6))
      }
    }
  }

  @Test func alphaIsChosenForEachMatrix() throws {
    let bench = try Workbench()
    let stages = ["warmStart: {sparsity: 0.5}", "frankWolfe: {alpha: auto, iterations: 50, holdOut: 0.25}"]
    let output = try bench.run(bench.recipe(stages[0], stages[1], samples: 12))
    #expect(try Verification(folder: output, on: device).findings.isEmpty)
    let store = try ArtifactStore(existing: bench.folder.path + "/work")
    let reports = try store.manifests().filter { $0.components["stage"]?.string == "frankWolfe" }.compactMap(
      \.matrixReport)
    #expect(reports.count == 14)
    for report in reports {
      #expect([0, 0.5, 0.75, 0.9].contains(report.details["alpha"]?.double ?? -1))
      #expect(report.details["heldOutAfter"]?.double != nil)
    }
  }

  @Test func nMKeepsRowBudgets() throws {
    let bench = try Workbench()
    let (message, exitCode) = bench.failure {
      try bench.run(bench.recipe("warmStart: {keep: 2, of: 4}", "frankWolfe: {budget: matrix}"))
    }
    #expect(exitCode == 64 && message.contains("budget: matrix moves weights"))
  }
}
