import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// One row's loss after the fit, in f64, from its definition: `(G + ridge) v = (G + ridge) w + s` on what is kept.
private struct FittedRow {
  let columns: Int
  /// `G + ridge`.
  let matrix: [Double]
  let side: [Double]

  init(_ layer: Layer, _ row: Int, ridge: [Double], shift: [Float]? = nil) {
    let columns = layer.columns
    self.columns = columns
    var matrix = layer.gram.map(Double.init)
    for channel in 0..<columns { matrix[channel * columns + channel] += ridge[channel] }
    self.matrix = matrix
    var side = shift?.map(Double.init) ?? [Double](repeating: 0, count: columns)
    for a in 0..<columns {
      for b in 0..<columns { side[a] += matrix[a * columns + b] * Double(layer.weights[row * columns + b]) }
    }
    self.side = side
  }

  /// The damped loss after the fit, less what no mask changes: `- b_S^T A b_S`, by a Cholesky factor.
  func loss(_ kept: [Bool]) -> Double {
    let channels = (0..<columns).filter { kept[$0] }
    var factor = [[Double]](repeating: [], count: channels.count)
    var sum = 0.0
    var reduced: [Double] = []
    for (i, channel) in channels.enumerated() {
      var row: [Double] = []
      for j in 0...i {
        var value = matrix[channel * columns + channels[j]]
        for k in 0..<j { value -= row[k] * (j == i ? row[k] : factor[j][k]) }
        row.append(j == i ? value.squareRoot() : value / factor[j][j])
      }
      factor[i] = row
      var value = side[channel]
      for j in 0..<i { value -= row[j] * reduced[j] }
      reduced.append(value / row[i])
      sum += reduced[i] * reduced[i]
    }
    return -sum
  }

  /// The mask that the best exchange of weights of a run leads to, and its loss; the mask itself if none is better.
  func bestExchange(_ kept: [Bool], span: Int) -> (kept: [Bool], loss: Double) {
    var best = (kept, loss(kept))
    for u in 0..<columns where kept[u] {
      for p in 0..<columns where !kept[p] && u / span == p / span {
        var next = kept
        (next[u], next[p]) = (false, true)
        let loss = loss(next)
        if loss < best.1 { best = (next, loss) }
      }
    }
    return best
  }

  /// All exchanges to the local optimum, by sweeps over all channels in f64.
  func optimum(_ start: [Bool], least: Double) -> Double {
    var kept = start
    let last = columns
    var t = [[Double]](repeating: [Double](repeating: 0, count: last + 1), count: last + 1)
    for i in 0..<last {
      for j in 0..<last { t[i][j] = matrix[i * columns + j] }
      (t[i][last], t[last][i]) = (side[i], side[i])
    }
    func sweep(_ k: Int, _ sign: Double) {
      let (line, pivot) = (t[k], t[k][k])
      for i in 0...last where i != k {
        for j in 0...last where j != k { t[i][j] -= line[i] * line[j] / pivot }
      }
      for i in 0...last where i != k { (t[i][k], t[k][i]) = (sign * line[i] / pivot, sign * line[i] / pivot) }
      t[k][k] = -1 / pivot
    }
    for k in 0..<last where kept[k] { sweep(k, 1) }
    while true {
      var best = (u: 0, p: 0, gain: least)
      for u in 0..<last where kept[u] {
        for p in 0..<last where !kept[p] {
          let (a, v, h) = (-t[u][u], t[u][last], t[p][u])
          let reached = t[p][last] + h * v / a
          let gain = reached * reached / (t[p][p] + h * h / a) - v * v / a
          if gain > best.gain { best = (u, p, gain) }
        }
      }
      guard best.gain > least else { return t[last][last] }
      sweep(best.u, -1)
      sweep(best.p, 1)
      (kept[best.u], kept[best.p]) = (false, true)
    }
  }
}

extension Mask {
  fileprivate func kept(_ row: Int) -> [Bool] { (0..<columns).map { self[row, $0] } }
}

/// Swaps for the loss after the fit, against losses that are computed in f64 from their definition.
@Suite struct RefitSwapTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// Swap after swap each is the best of all, for the rows' own outputs and for other targets.
  @Test(arguments: [nil, (2, 4), (3, 6)] as [(keep: Int, of: Int)?], [false, true])
  func everySwapIsTheBest(groups: (keep: Int, of: Int)?, isShifted: Bool) throws {
    var random = SeededRandom(seed: 41)
    var swaps = 0
    for _ in 0..<25 {
      let columns = (groups?.of ?? 5) * Int.random(in: 1...3, using: &random)
      let layer = Layer.random(
        &random, rows: 3, columns: columns, tokens: Int.random(in: 2...40, using: &random))
      let weight = try layer.weight(in: folder)
      // The shift of targets `(w + z) X`.
      let moved = random.normals(3 * columns)
      let residual =
        isShifted
        ? moved.indices.map { index in
          let (row, a) = (index / columns, index % columns)
          return (0..<columns).reduce(Float(0)) {
            $0 + layer.gram[a * columns + $1] * moved[row * columns + $1]
          }
        } : nil
      let shift = try residual.map { try storedShift($0, columns: columns) }
      let ridge = layer.ridge(0.01)
      let pattern: SparsityPattern =
        groups.map { .groups(keep: $0.keep, of: $0.of) } ?? .rows(sparsity: 0.6)
      let span = pattern.span(ofColumns: columns)
      var mask = mostSalient(weight, .magnitude, diagonal: [], pattern: pattern, on: device)
      for limit in [1, 1, 1, nil] as [Int?] {
        let outcome = try refineByRefitSwaps(
          weight, gram: layer.matrix, shift: shift, mask: mask, options: RefitSwapOptions(limit: limit),
          on: device
        ) { _ in }
        #expect(outcome.mask.firstRowOffPattern() == nil)
        for row in 0..<3 {
          let exact = FittedRow(
            layer, row, ridge: zip(ridge, layer.diagonal).map { $1 > 0 ? $0 : max($0, 1e-12) },
            shift: residual.map { Array($0[row * columns..<(row + 1) * columns]) })
          let scale = (0..<columns).reduce(0.0) {
            let w = Double(layer.weights[row * columns + $1])
            return $0 + w * w * layer.diagonal[$1]
          }
          // What f32 leaves of the loss, and the least gain of a swap.
          let tolerance = 2e-5 * scale + 1e-4 * abs(exact.loss(mask.kept(row))) * 0.01
          let after = exact.loss(outcome.mask.kept(row))
          if limit == 1 {
            let best = exact.bestExchange(mask.kept(row), span: span)
            #expect(abs(after - best.loss) <= tolerance, "\(after), not \(best.loss); scale \(scale)")
          } else {
            #expect(exact.bestExchange(outcome.mask.kept(row), span: span).loss >= after - tolerance)
          }
        }
        swaps += outcome.swaps
        mask = outcome.mask
      }
    }
    #expect(swaps > 30, "\(swaps)")
  }

  /// Without ties the masks after every number of swaps are those of a full search in f64.
  @Test func theSequenceIsThatOfAFullSearch() throws {
    var random = SeededRandom(seed: 7)
    var swaps = 0
    for _ in 0..<4 {
      let layer = Layer.random(&random, rows: 2, columns: 40, tokens: 200)
      let weight = try layer.weight(in: folder)
      let start = mostSalient(
        weight, .wanda, diagonal: layer.diagonal, pattern: .rows(sparsity: 0.5), on: device)
      var expected = (0..<2).map { start.kept($0) }
      for limit in 1...8 {
        let outcome = try refineByRefitSwaps(
          weight, gram: layer.matrix, mask: start, options: RefitSwapOptions(limit: limit), on: device
        ) { _ in }
        for row in 0..<2 {
          let exact = FittedRow(layer, row, ridge: layer.ridge(0.01))
          let best = exact.bestExchange(expected[row], span: 40)
          let least = 1e-5 * abs(exact.loss(expected[row]))
          if exact.loss(expected[row]) - best.loss > least { expected[row] = best.kept }
          #expect(outcome.mask.kept(row) == expected[row], "row \(row) after \(limit)")
        }
        swaps += outcome.swaps
      }
    }
    #expect(swaps > 50)
  }

  /// A row that is too wide for an exact search reaches what an exact one reaches, within a few per cent of its gain.
  @Test func candidatesKeepTheGainOfAnExactSearch() throws {
    var random = SeededRandom(seed: 19)
    let layer = Layer.random(&random, rows: 4, columns: 320, tokens: 900)
    let weight = try layer.weight(in: folder)
    var mask = mostSalient(
      weight, .wanda, diagonal: layer.diagonal, pattern: .rows(sparsity: 0.6), on: device)
    _ = try refineBySwaps(weight, gram: layer.matrix, mask: &mask, options: SwapOptions(), on: device)
    #expect(
      !RefitSystem(layer.matrix, damping: [Float](repeating: 1, count: 320), span: 320, on: device)
        .searchesAll)
    let outcome = try refineByRefitSwaps(weight, gram: layer.matrix, mask: mask, on: device) { _ in }
    var (before, after, optimum) = (0.0, 0.0, 0.0)
    for row in 0..<4 {
      let exact = FittedRow(layer, row, ridge: layer.ridge(0.01))
      before += exact.loss(mask.kept(row))
      after += exact.loss(outcome.mask.kept(row))
      optimum += exact.optimum(mask.kept(row), least: 1e-6 * abs(exact.loss(mask.kept(row))))
    }
    #expect(optimum < before)
    #expect(before - after > 0.9 * (before - optimum), "\(before - after) of \(before - optimum)")
    #expect(outcome.rowsTakenBack == 0)
  }

  /// The weights are those of a fit to the masks, and the losses those of the weights; threads and instructions change nothing.
  @Test(arguments: [.rows(sparsity: 0.6), .groups(keep: 2, of: 4)] as [SparsityPattern])
  func theWeightsAreFittedAndTheThreadsDoNotMatter(pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: 5)
    let layer = Layer.random(&random, rows: 300, columns: 200, tokens: 400)
    let weight = try layer.weight(in: folder)
    let start = mostSalient(weight, .wanda, diagonal: layer.diagonal, pattern: pattern, on: device)
    var results: [[Float]] = []
    for device in [
      Device(threads: 1), Device(threads: 3), Device(threads: 2, instructions: .avx2),
    ] {
      var (new, again, loss): ([Float], [Float], Double) = ([], [], 0)
      let outcome = try refineByRefitSwaps(weight, gram: layer.matrix, mask: start, on: device) { rows in
        loss += Loss(layer.matrix, on: device).ofUpdate(weight, rows, firstRow: new.count / 200)
          .reduce(0, +)
        new += rows.array()
      }
      _ = try reconstruct(weight, gram: layer.matrix, mask: outcome.mask, on: device) { again += $0.array() }
      #expect(new == again)
      #expect(outcome.mask.firstRowOffPattern() == nil)
      #expect(abs(outcome.fit.lossAfter / loss - 1) < 1e-4)
      #expect(abs(outcome.lossBefore / Loss(layer.matrix, on: device).of(weight, start) - 1) < 1e-5)
      #expect(outcome.fit.lossAfter < outcome.fittedBefore && outcome.fittedBefore < outcome.lossBefore)
      results.append(new)
    }
    #expect(results.allSatisfy { $0 == results[0] })
  }

  @Test func aFactorOfLowRankGivesTheSame() throws {
    var random = SeededRandom(seed: 6)
    let factor = random.normals(60 * 150)
    let rest = (0..<150).map { Float(1 + $0 % 4) }
    let low = GramMatrix(factor: Matrix(rows: 60, columns: 150, factor), rest: rest)
    let whole = GramMatrix(low.copy(on: device))
    let weight = try Layer(rows: 5, columns: 150, weights: random.normals(5 * 150), gram: []).weight(
      in: folder)
    let start = mostSalient(weight, .magnitude, diagonal: [], pattern: .rows(sparsity: 0.5), on: device)
    let masks = try [low, whole].map { gram in
      let outcome = try refineByRefitSwaps(weight, gram: gram, mask: start, on: device) { _ in }
      #expect(outcome.swaps > 0)
      return outcome.mask
    }
    #expect(masks[0] == masks[1])
  }

  /// Channels without input, equal channels, hardly any damping, rows that keep nothing or all: no result is worse than the fit of the
  /// first mask.
  @Test(arguments: [0, 1e-6, 0.3])
  func degenerateLayersEndNoWorse(damping: Double) throws {
    var random = SeededRandom(seed: 23)
    for trial in 0..<60 {
      let columns = Int.random(in: 1...30, using: &random)
      var layer = Layer.random(
        &random, rows: 4, columns: columns, tokens: Int.random(in: 1...20, using: &random))
      if trial % 5 == 0 { layer.gram = [Float](repeating: 0, count: columns * columns) }
      let weight = try layer.weight(in: folder)
      let mask = layer.randomMask(&random)
      let options = ReconstructOptions(damping: damping)
      var (new, first): ([Float], [Float]) = ([], [])
      let outcome = try refineByRefitSwaps(
        weight, gram: layer.matrix, mask: mask.with(.rows(sparsity: 0)),
        options: RefitSwapOptions(fit: options), on: device
      ) { new += $0.array() }
      _ = try reconstruct(weight, gram: layer.matrix, mask: mask, options: options, on: device) {
        first += $0.array()
      }
      let ridge = layer.ridge(damping)
      for row in 0..<4 {
        #expect(outcome.mask.keptCount(row: row) == mask.keptCount(row: row))
        func damped(_ weights: [Float]) -> Double {
          layer.loss(row, (0..<columns).map { Double(weights[row * columns + $0]) }, ridge: ridge)
        }
        let scale = (0..<columns).reduce(1e-6) {
          let w = Double(layer.weights[row * columns + $1])
          return $0 + w * w * layer.diagonal[$1]
        }
        #expect(new.allSatisfy { $0.isFinite })
        #expect(damped(new) <= damped(first) + 1e-3 * scale)
      }
    }
  }

  private func storedShift(_ residual: [Float], columns: Int) throws -> TargetShift {
    let path = folder.path + "/residual.safetensors"
    var writer = try SafetensorsWriter(
      path: path, tensors: [("r", .f32, [residual.count / columns, columns])])
    try writer.append(residual)
    try writer.finish()
    return try TargetShift(
      cross: nil, residual: LinearWeight(SafetensorsFile(path: path).tensor("r")))
  }
}
