import CKernels
import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierTestSupport
import Testing

/// Masks against a sort of all scores.
@Suite struct SaliencyTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  @Test func exactlyTheLargestAreKeptAndOfEqualOnesTheLowerIndexGoes() {
    var random = SeededRandom(seed: 4)
    for trial in 0..<3000 {
      let count = Int.random(in: 1...80, using: &random)
      let keep = Int.random(in: 0...count, using: &random)
      // Few different values, so that ties are common; zeros and subnormals among them.
      let values: [Float] = [0, -0.0, Float(bitPattern: 300), 0.5, -0.5, 1, 1 + .ulpOfOne, 3e38, -3e38]
      let scores = (0..<count).map { _ in
        trial % 3 == 0 ? random.normal() : values.randomElement(using: &random) ?? 0
      }
      var kept = [UInt8](repeating: 7, count: count)
      var scratch = [UInt32](repeating: 0, count: count)
      espalier_select_kept(count, keep, scores, &scratch, &kept)
      let order = (0..<count).sorted { (scores[$0], $0) < (scores[$1], $1) }
      var expected = [UInt8](repeating: 1, count: count)
      for index in order.prefix(count - keep) { expected[index] = 0 }
      #expect(kept == expected)
    }
  }

  @Test(arguments: [
    SparsityPattern.rows(sparsity: 0.6), .rows(sparsity: 0), .rows(sparsity: 1), .groups(keep: 2, of: 4),
    .groups(keep: 1, of: 3),
  ])
  func masksHaveExactCountsAndTheBestWeights(pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: 7)
    let (rows, columns) = (23, 36)
    let values = random.normals(rows * columns)
    let diagonal = (0..<columns).map { _ in Double(abs(random.normal())) * 5 }
    let weight = try write(values, rows, columns)
    for saliency in [Saliency.magnitude, .wanda, .ria(power: 0.5)] {
      let mask = mostSalient(weight, saliency, diagonal: diagonal, pattern: pattern, on: device)
      #expect(mask.firstRowOffPattern() == nil)
      let span = pattern.span(ofColumns: columns)
      for row in 0..<rows {
        for start in stride(from: 0, to: columns, by: span) {
          let scores = (start..<start + span).map {
            score(saliency, values, diagonal, row, $0, rows, columns)
          }
          let order = scores.indices.sorted { (scores[$0], $0) < (scores[$1], $1) }
          let pruned = Set(order.prefix(span - pattern.kept(ofColumns: span)))
          for index in scores.indices { #expect(mask[row, start + index] != pruned.contains(index)) }
        }
      }
    }
  }

  @Test func scoresMayBeNegativeButMustBeFinite() throws {
    let (rows, columns) = (40, 8)
    let weight = try write((0..<rows * columns).map { Float($0 % 7) - 3 }, rows, columns)
    let identity: RowScores = { _, weights, scores in
      for index in weights.indices { scores[index] = weights[index] }
    }
    let (mask, notFinite) = highestScoring(
      weight, identity, pattern: .groups(keep: 1, of: 4), on: device)
    #expect(notFinite == nil)
    let values = weight.matrix(0..<rows)
    for row in 0..<rows {
      for column in 0..<columns where mask[row, column] {
        let group = column / 4 * 4..<column / 4 * 4 + 4
        #expect(group.allSatisfy { values[row, $0] <= values[row, column] })
      }
    }
    for bad in [Float.nan, .infinity] {
      let (_, row) = highestScoring(
        weight,
        { row, weights, scores in
          identity(row, weights, &scores)
          if row >= 21 { scores[3] = bad }
        }, pattern: .rows(sparsity: 0.5), on: device)
      #expect(row == 21)
    }
  }

  private func score(
    _ saliency: Saliency, _ values: [Float], _ diagonal: [Double], _ row: Int, _ column: Int, _ rows: Int,
    _ columns: Int
  ) -> Double {
    let magnitude = Double(abs(values[row * columns + column]))
    switch saliency {
    case .magnitude: return magnitude
    case .wanda: return magnitude * diagonal[column].squareRoot()
    case .ria:
      let columnSum = (0..<rows).reduce(0.0) { $0 + Double(abs(values[$1 * columns + column])) }
      let rowSum = (0..<columns).reduce(0.0) { $0 + Double(abs(values[row * columns + $1])) }
      return (magnitude / columnSum + magnitude / rowSum) * diagonal[column].squareRoot().squareRoot()
    }
  }

  private func write(_ values: [Float], _ rows: Int, _ columns: Int) throws -> LinearWeight {
    let path = folder.path + "/w.safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("w", .f32, [rows, columns])])
    try writer.append(values)
    try writer.finish()
    return try LinearWeight(SafetensorsFile(path: path).tensor("w"))
  }
}
