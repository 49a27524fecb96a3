import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// DSnoT against the same rule written with sorted lists.
@Suite struct DSnoTTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// A row of the mask after all its moves, and how many they were.
  private func plain(
    _ w: [Double], means: [Double], squares: [Double], kept: [Bool], span: Int, options: DSnoTOptions
  ) -> (kept: [Bool], moves: Int) {
    let n = w.count
    var kept = kept
    let parts = (0..<n).map { w[$0] * means[$0] }
    let strength = (0..<n).map { parts[$0] / max(squares[$0] - means[$0] * means[$0], 1e-12 * squares[$0]) }
    let pruned = (0..<n).filter { !kept[$0] }
    // The weights that may be grown while the error is positive, and while it is negative, the strongest
    // first.
    var grow = [
      pruned.filter { parts[$0] > 0 }.sorted { (strength[$0], -$0) > (strength[$1], -$1) },
      pruned.filter { parts[$0] < 0 }.sorted { (-strength[$0], -$0) > (-strength[$1], -$1) },
    ]
    let salience = (0..<n).map { w[$0] * w[$0] * squares[$0] }
    var prune = (0..<n).filter { kept[$0] }.sorted { (salience[$0], $0) < (salience[$1], $1) }
    var error = pruned.reduce(0.0) { $0 + parts[$1] }
    let enough = options.threshold * pruned.reduce(0.0) { $0 + w[$1] * w[$1] * squares[$1] }.squareRoot()
    var moves = 0
    while moves < options.cycles, abs(error) > enough {
      let side = error > 0 ? 0 : 1
      guard !grow[side].isEmpty else { break }
      let grown = grow[side].removeFirst()
      let place = prune.firstIndex { candidate in
        span == n ? parts[candidate] * error < 0 : candidate / span == grown / span
      }
      guard let place else { if span == n { break } else { continue } }
      let after = error - parts[grown] + parts[prune[place]]
      guard abs(after) < abs(error) else { break }
      kept[grown] = true
      kept[prune.remove(at: place)] = false
      error = after
      moves += 1
    }
    return (kept, moves)
  }

  /// Small integers: exact sums, and many ties.
  @Test(
    arguments: [
      .rows(sparsity: 0.5), .groups(keep: 2, of: 4), .groups(keep: 1, of: 3), .matrix(sparsity: 0.4),
    ]
      as [SparsityPattern], [0, 0.1, 0.5])
  func everyMoveIsThatOfTheRule(pattern: SparsityPattern, threshold: Double) throws {
    var random = SeededRandom(seed: 41)
    var moves = 0
    for trial in 0..<120 {
      let rows = 6
      let columns = 12 * Int.random(in: 1...3, using: &random)
      let weights = (0..<rows * columns).map { _ in Float(Int.random(in: -3...3, using: &random)) }
      let means = (0..<columns).map { _ in Double(Int.random(in: -2...2, using: &random)) }
      let squares = means.map { $0 * $0 + Double(Int.random(in: 0...3, using: &random)) }
      let layer = Layer(rows: rows, columns: columns, weights: weights, gram: [])
      let weight = try layer.weight(in: folder)
      let start = mostSalient(
        weight, .wanda, diagonal: squares.map { $0 * 8 }, pattern: pattern, on: device)
      let options = DSnoTOptions(cycles: trial % 4 == 0 ? 2 : 50, threshold: threshold)
      var mask = start
      let outcome = refineByDSnoT(
        weight, diagonal: squares.map { $0 * 8 }, means: means, tokens: 8, mask: &mask, options: options,
        on: device)
      #expect(mask.firstRowOffPattern() == nil && mask.pattern == pattern)
      var expected = (moves: 0, most: 0, before: 0.0, after: 0.0)
      for row in 0..<rows {
        let w = weights[row * columns..<(row + 1) * columns].map(Double.init)
        func error(_ mask: Mask) -> Double {
          abs((0..<columns).reduce(0.0) { mask[row, $1] ? $0 : $0 + w[$1] * means[$1] })
        }
        let result = plain(
          w, means: means, squares: squares, kept: (0..<columns).map { start[row, $0] },
          span: pattern.span(ofColumns: columns), options: options)
        #expect((0..<columns).map { mask[row, $0] } == result.kept, "trial \(trial), row \(row)")
        #expect(mask.keptCount(row: row) == start.keptCount(row: row))
        #expect(error(mask) <= error(start))
        expected.moves += result.moves
        expected.most = max(expected.most, result.moves)
        expected.before += error(start)
        expected.after += error(mask)
      }
      #expect(outcome.moves == expected.moves && outcome.mostMoves == expected.most)
      #expect(outcome.errorBefore == expected.before && outcome.errorAfter == expected.after)
      moves += outcome.moves
    }
    #expect(moves > 200)
  }

  @Test(arguments: ["a", "b", "c"])
  func masksAreTheGoldenOnes(name: String) throws {
    let golden = try GoldenLayer(name)
    let start = try golden.mask("wanda")
    var mask = start
    _ = refineByDSnoT(
      try golden.layer.weight(in: folder), diagonal: golden.layer.diagonal,
      means: try golden.doubles("means"),
      tokens: Int(try golden.doubles("tokens")[0]), mask: &mask, options: DSnoTOptions(threshold: 0.1),
      on: device)
    #expect(try mask == golden.mask("dsnot.mask") && mask != start)
  }
}
