import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// The error of a matrix after its kept weights are fitted.
@Suite struct FittedErrorTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// With few rows all of them are looked at: the error is what `reconstruct` says, as a share of the loss of an empty mask.
  @Test(arguments: [1, 16, 128]) func ofFewRowsItIsThatOfAllRows(rows: Int) throws {
    var random = SeededRandom(seed: 5)
    let layer = Layer.random(&random, rows: rows, columns: 24, tokens: 60)
    let weight = try layer.weight(in: folder)
    let error = FittedError(weight, gram: layer.matrix, on: device)
    for sparsity in [0, 0.25, 0.5, 1] {
      let mask = mostSalient(
        weight, .wanda, diagonal: layer.diagonal, pattern: .rows(sparsity: sparsity), on: device)
      let lost = try reconstruct(weight, gram: layer.matrix, mask: mask, on: device) { _ in }.lossAfter
      let whole = Loss(layer.matrix, on: device).of(
        weight, Mask(rows: rows, columns: 24, pattern: .rows(sparsity: 1)))
      #expect(abs(error.of(mask) - lost / whole) <= 1e-4)
      if sparsity == 0 { #expect(error.of(mask) == 0) }
      if sparsity == 1 { #expect(abs(error.of(mask) - 1) <= 1e-5) }
    }
  }

  @Test func aSampleOfManyRowsIsCloseToAllAndGrowsWithTheSparsity() throws {
    var random = SeededRandom(seed: 6)
    let layer = Layer.random(&random, rows: 1000, columns: 24, tokens: 60)
    let weight = try layer.weight(in: folder)
    let error = FittedError(weight, gram: layer.matrix, on: device)
    let whole = Loss(layer.matrix, on: device).of(
      weight, Mask(rows: 1000, columns: 24, pattern: .rows(sparsity: 1)))
    var before = -1.0
    for sparsity in [0.25, 0.5, 0.75] {
      let mask = mostSalient(
        weight, .wanda, diagonal: layer.diagonal, pattern: .rows(sparsity: sparsity), on: device)
      let lost = try reconstruct(weight, gram: layer.matrix, mask: mask, on: device) { _ in }.lossAfter
      #expect(abs(error.of(mask) / (lost / whole) - 1) < 0.2 && error.of(mask) > before)
      before = error.of(mask)
    }
  }
}
