import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// Factors of low rank against the whole Gram matrix of the same inputs.
@Suite struct LowRankTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// Inputs of a falling spectrum: `tokens x columns`.
  private func inputs(_ tokens: Int, _ columns: Int, _ random: inout SeededRandom) -> Matrix {
    let mixing = random.matrix(columns, columns)
    var inputs = Matrix(rows: tokens, columns: columns)
    for token in 0..<tokens {
      for source in 0..<columns {
        let factor = random.normal() / Float(1 + source)
        for column in 0..<columns { inputs[token, column] += factor * mixing[source, column] }
      }
    }
    return inputs
  }

  private func factor(_ inputs: borrowing Matrix, _ form: GramForm, parts count: Int = 1) -> GramAccumulator {
    var accumulator = GramAccumulator(columns: inputs.columns, form: form, on: device)
    for part in parts(of: inputs.rows, size: (inputs.rows + count - 1) / count) {
      accumulator.add(inputs, rows: part)
    }
    accumulator.finish()
    return accumulator
  }

  /// What a later stage would read.
  private func gram(_ accumulator: borrowing GramAccumulator) throws -> (gram: GramMatrix, rank: Int) {
    let path = folder.path + "/factor"
    let draft = try SafetensorsDraft(path: path, tensors: accumulator.tensors("gram"))
    try accumulator.write("gram", to: draft)
    try draft.finish()
    let file = try SafetensorsFile(path: path)
    let factor = try file.tensor("gram.factor")
    return (try GramMatrix(factor: factor, rest: file.tensor("gram.rest").floats().array()), factor.shape[0])
  }

  private func largestDifference(_ a: GramMatrix, _ b: GramMatrix) -> Float {
    zip(a.copy(on: device).array(), b.copy(on: device).array()).map { abs($0 - $1) }.max() ?? 0
  }

  @Test(arguments: [(40, 16), (9, 16), (200, 33), (64, 64)])
  func theFullRankLosesNothing(tokens: Int, columns: Int) throws {
    var random = SeededRandom(seed: 3)
    let inputs = inputs(tokens, columns, &random)
    let gathered = factor(inputs, .whole).takeGram()
    let whole = try #require(gathered)
    let largest = whole.diagonal.max() ?? 0
    for count in [1, 3, tokens] {
      let accumulator = factor(inputs, .lowRank(rank: columns, energy: 1), parts: count)
      #expect(accumulator.discardedEnergy < 1e-5)
      let (found, rank) = try gram(accumulator)
      #expect(rank <= min(tokens, columns) && largestDifference(whole, found) < 2e-5 * Float(largest))
    }
  }

  /// A smaller rank keeps the diagonal and tells what it gave up; its error is that of the discarded directions at most.
  @Test func aLowRankKeepsTheDiagonalAndTellsWhatItGaveUp() throws {
    var random = SeededRandom(seed: 8)
    let inputs = inputs(300, 48, &random)
    let gathered = factor(inputs, .whole).takeGram()
    let whole = try #require(gathered)
    let trace = whole.diagonal.reduce(0, +)
    var last = Double.infinity
    for rank in [2, 6, 12, 24, 48] {
      let accumulator = factor(inputs, .lowRank(rank: rank, energy: 1), parts: 7)
      let discarded = accumulator.discardedEnergy
      let (found, kept) = try gram(accumulator)
      #expect(kept == rank && discarded < last)
      for (a, b) in zip(found.diagonal, whole.diagonal) { #expect(abs(a - b) <= 1e-5 * b) }
      #expect(Double(largestDifference(whole, found)) <= discarded * trace + 1e-4)
      last = discarded
    }
    #expect(last < 1e-5)
  }

  @Test func energyChoosesTheRank() throws {
    var random = SeededRandom(seed: 5)
    let inputs = inputs(200, 40, &random)
    var ranks: [Int] = []
    for energy in [0.5, 0.9, 0.99, 0.9999] {
      let accumulator = factor(inputs, .lowRank(rank: 40, energy: energy))
      #expect(accumulator.discardedEnergy <= 1 - energy + 1e-6)
      ranks.append(try gram(accumulator).rank)
    }
    #expect(ranks == ranks.sorted() && Set(ranks).count == 4 && (ranks.last ?? 40) < 40)
  }

  @Test func inputsWithoutAValueAreFound() {
    var inputs = Matrix(rows: 8, columns: 4)
    inputs[3, 2] = .nan
    #expect(factor(inputs, .lowRank(rank: 2, energy: 1)).firstNotFinite == 2)
    #expect(factor(Matrix(rows: 8, columns: 4), .lowRank(rank: 2, energy: 1)).firstNotFinite == nil)
  }

  /// Factors of two texts, one merged into the other, are that of both; exact where the rank holds both.
  @Test(arguments: [(48, 1e-5), (12, 0.2)])
  func factorsOfTwoTextsAddUp(rank: Int, error: Double) throws {
    var random = SeededRandom(seed: 12)
    let first = inputs(130, 48, &random)
    let second = inputs(90, 48, &random)
    var whole = GramAccumulator(columns: 48, form: .whole, on: device)
    whole.add(first)
    whole.add(second)
    whole.finish()
    let (trace, exact) = ((0..<48).reduce(0) { $0 + whole.diagonal[$1] }, (0..<48).map { whole.diagonal[$0] })
    let gathered = whole.takeGram()
    let both = try #require(gathered)
    let form = GramForm.lowRank(rank: rank, energy: 1)
    let earlier = factor(first, form)
    let (gram, _) = try gram(earlier)
    var sum = GramAccumulator(columns: 48, form: form, on: device)
    sum.add(second)
    try sum.merge(
      gram, diagonal: (0..<48).map { earlier.diagonal[$0] }, sums: (0..<48).map { earlier.sums[$0] },
      tokens: 130)
    sum.finish()
    #expect(sum.tokens == 220)
    for column in 0..<48 { #expect(abs(sum.diagonal[column] - exact[column]) <= 1e-12 * exact[column]) }
    let (found, _) = try self.gram(sum)
    #expect(Double(largestDifference(both, found)) <= error * trace)
    // What both gave up is what the factor lacks of the trace.
    let rest = try SafetensorsFile(path: folder.path + "/factor").tensor("gram.rest").floats().array()
    #expect(abs(rest.reduce(0.0) { $0 + Double($1) } / trace - sum.discardedEnergy) <= 1e-5)
    #expect(sum.discardedEnergy <= 2 * factorOfBoth(first, second, form).discardedEnergy + 1e-5)
  }

  private func factorOfBoth(_ a: borrowing Matrix, _ b: borrowing Matrix, _ form: GramForm) -> GramAccumulator
  {
    var accumulator = GramAccumulator(columns: a.columns, form: form, on: device)
    accumulator.add(a)
    accumulator.add(b)
    accumulator.finish()
    return accumulator
  }
}
