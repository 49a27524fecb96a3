import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// Gram matrices, whole and by a factor, and what refining by swaps makes of them.
@Suite struct SwapGramTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// A factor of small integers and what the diagonal has beyond it: all products are exact.
  private struct Factored {
    let rank: Int
    let columns: Int
    let factor: [Float]
    let rest: [Float]

    init(_ random: inout SeededRandom, rank: Int, columns: Int) {
      (self.rank, self.columns) = (rank, columns)
      factor = (0..<rank * columns).map { _ in Float(Int.random(in: -3...3, using: &random)) }
      rest = (0..<columns).map { _ in Float(Int.random(in: 0...5, using: &random)) }
    }

    var whole: [Float] {
      var gram = [Float](repeating: 0, count: columns * columns)
      for i in 0..<columns {
        for j in 0..<columns {
          gram[i * columns + j] =
            (0..<rank).reduce(i == j ? rest[i] : 0) {
              $0 + factor[$1 * columns + i] * factor[$1 * columns + j]
            }
        }
      }
      return gram
    }

    var gram: GramMatrix {
      GramMatrix(factor: Matrix(rows: rank, columns: columns, factor), rest: rest)
    }
  }

  private func weight(_ values: [Float], rows: Int) throws -> LinearWeight {
    let path = folder.path + "/w.safetensors"
    var writer = try SafetensorsWriter(
      path: path, tensors: [("w", .f32, [rows, values.count / rows])])
    try writer.append(values)
    try writer.finish()
    return try LinearWeight(SafetensorsFile(path: path).tensor("w"))
  }

  /// Read from a file whose pages go as soon as they were used, the matrix gives the same losses as in memory.
  @Test func lossesOfAMatrixThatIsNotKept() throws {
    var random = SeededRandom(seed: 43)
    let columns = 1100
    let elements = Factored(&random, rank: 5, columns: columns).whole
    let path = folder.path + "/gram.safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("gram", .f32, [columns, columns])])
    try writer.append(elements)
    try writer.finish()
    let weight = try weight(
      (0..<3 * columns).map { _ in Float(Int.random(in: -3...3, using: &random)) }, rows: 3)
    let mask = mostSalient(
      weight, .magnitude, diagonal: [], pattern: .rows(sparsity: 0.5), on: device)
    var exact = 0.0
    for row in 0..<3 {
      let pruned = (0..<columns).map { mask[row, $0] ? 0 : Double(weight.matrix(row..<row + 1)[0, $0]) }
      for i in 0..<columns where pruned[i] != 0 {
        for j in 0..<columns { exact += pruned[i] * Double(elements[i * columns + j]) * pruned[j] }
      }
    }
    for keepsPages in [true, false] {
      let gram = try GramMatrix(SafetensorsFile(path: path).tensor("gram"), keepsPages: keepsPages)
      #expect(Loss(gram, on: device).of(weight, mask) == exact)
    }
  }

  @Test(arguments: [(1, 1), (3, 7), (20, 130), (140, 700)])
  func aFactorIsItsWholeMatrix(rank: Int, columns: Int) {
    var random = SeededRandom(seed: 41)
    let factored = Factored(&random, rank: rank, columns: columns)
    let elements = factored.whole
    let (gram, whole) = (factored.gram, GramMatrix(Matrix(rows: columns, columns: columns, elements)))
    let expected = (0..<columns).map { Double(elements[$0 * columns + $0]) }
    #expect(gram.diagonal == expected && whole.diagonal == expected)
    #expect(gram.copy(on: device).array() == elements)
    let rows = 3
    let values = (0..<(rows + 1) * columns).map { _ in Float(Int.random(in: -2...2, using: &random)) }
    let block = Matrix(rows: rows + 1, columns: columns, values)
    var forms = [Double](repeating: 0, count: rows)
    var products = [Float](repeating: 0, count: (rows + 1) * columns)
    for row in 0..<rows {
      for i in 0..<columns {
        for j in 0..<columns {
          products[row * columns + j] += values[row * columns + i] * elements[i * columns + j]
        }
      }
      for i in 0..<columns {
        forms[row] += Double(values[row * columns + i]) * Double(products[row * columns + i])
      }
    }
    for gram in [gram, whole] {
      var product = Matrix(rows: rows + 1, columns: columns)
      gram.multiply(block, rows: rows, into: &product, on: device)
      #expect(product.array() == products)
      #expect(gram.quadraticForms(block, rows: rows, on: device) == forms)
    }
  }

  @Test(arguments: [SparsityPattern.rows(sparsity: 0.6), .groups(keep: 2, of: 4), .groups(keep: 20, of: 40)])
  func swapsFromAFactorAreThoseOfItsWholeMatrix(pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: 42)
    let (rows, columns) = (20, 120)
    let factored = Factored(&random, rank: 70, columns: columns)
    let whole = GramMatrix(Matrix(rows: columns, columns: columns, factored.whole))
    let other = Factored(&random, rank: 40, columns: columns)
    let weight = try weight(
      (0..<rows * columns).map { _ in Float(Int.random(in: -4...4, using: &random)) }, rows: rows)
    let start = mostSalient(
      weight, .wanda, diagonal: whole.diagonal, pattern: pattern, on: device)
    for heldOut in [nil, other.gram] {
      let options = SwapOptions(heldOut: heldOut)
      var (mask, expected) = (start, start)
      let found = try refineBySwaps(
        weight, gram: factored.gram, mask: &mask, options: options, on: device)
      let outcome = try refineBySwaps(
        weight, gram: whole, mask: &expected, options: options, on: device)
      #expect(mask == expected && mask != start && mask.firstRowOffPattern() == nil)
      #expect(found.lossBefore == outcome.lossBefore && found.lossAfter == outcome.lossAfter)
      #expect(found.drift == 0 && outcome.drift == 0)
      #expect(found.lossAfter == Loss(whole, on: device).of(weight, mask))
      #expect(found.heldOutAfter == outcome.heldOutAfter)
      guard let heldOut else { continue }
      #expect(found.heldOutBefore == Loss(heldOut, on: device).of(weight, start))
      #expect(found.heldOutAfter == Loss(heldOut, on: device).of(weight, mask))
      #expect(found.heldOutAfter <= found.heldOutBefore && found.rowsStoppedByHeldOut > 0)
    }
  }

  /// The swaps read the rows of G, and the loss at the end its upper triangle: where these differ the loss does not add up.
  @Test func aLossThatDoesNotAddUpIsSeen() throws {
    var random = SeededRandom(seed: 43)
    let (rows, columns) = (4, 96)
    let factored = Factored(&random, rank: 200, columns: columns)
    let weight = try weight(random.normals(rows * columns), rows: rows)
    var mask = mostSalient(
      weight, .wanda, diagonal: factored.gram.diagonal, pattern: .rows(sparsity: 0.5), on: device)
    let start = mask
    let sound = try refineBySwaps(
      weight, gram: factored.gram, mask: &mask, options: SwapOptions(), on: device)
    #expect(sound.drift < 1e-6 && sound.rowsSearchedAgain == 0 && sound.swaps > 0)
    var damaged = factored.whole
    for i in 0..<columns { for j in 0..<i { damaged[i * columns + j] *= 0.5 } }
    mask = start
    let outcome = try refineBySwaps(
      weight, gram: GramMatrix(Matrix(rows: columns, columns: columns, damaged)), mask: &mask,
      options: SwapOptions(), on: device)
    #expect(outcome.drift > 1e-3 && outcome.rowsSearchedAgain >= rows)
    #expect(outcome.rowsSearchedAgain <= 3 * rows)
    #expect(mask.firstRowOffPattern() == nil)
  }
}
