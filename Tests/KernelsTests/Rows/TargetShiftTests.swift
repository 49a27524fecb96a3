import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// A layer whose targets are those of a dense model and of a stream with an error, all in f64.
private struct ShiftedLayer {
  let layer: Layer
  /// `tokens x columns`: the inputs that the pruned model has, and those of the dense one.
  let inputs: [[Double]]
  /// `rows x tokens`.
  let targets: [[Double]]
  let shift: TargetShift
  /// The same, from the products of the inputs with `a W X_d + (H_d - H)`, for a share a of 0.3 of what the inputs lack.
  let shiftsOfAShare: (cross: TargetShift, outputs: TargetShift)

  init(_ random: inout SeededRandom, rows: Int, columns: Int, tokens: Int, in folder: TemporaryFolder) throws
  {
    var inputs: [[Double]] = []
    for _ in 0..<tokens {
      let common = random.normal()
      inputs.append(random.normals(columns).map { Double($0 + 0.7 * common) })
    }
    let dense = inputs.map { token in token.map { $0 + 0.4 * Double(random.normal()) } }
    let weights = random.normals(rows * columns)
    let stream = (0..<rows).map { _ in random.normals(tokens).map(Double.init) }
    var gram = [Float](repeating: 0, count: columns * columns)
    var cross = gram
    for a in 0..<columns {
      for b in 0..<columns {
        gram[a * columns + b] = Float((0..<tokens).reduce(0.0) { $0 + inputs[$1][a] * inputs[$1][b] })
        cross[a * columns + b] = Float(
          (0..<tokens).reduce(0.0) { $0 + inputs[$1][a] * (dense[$1][b] - inputs[$1][b]) })
      }
    }
    var residual = [Float](repeating: 0, count: rows * columns)
    for row in 0..<rows {
      for a in 0..<columns {
        residual[row * columns + a] = Float((0..<tokens).reduce(0.0) { $0 + inputs[$1][a] * stream[row][$1] })
      }
    }
    var targets = stream
    for row in 0..<rows {
      for token in 0..<tokens {
        for column in 0..<columns {
          targets[row][token] += Double(weights[row * columns + column]) * dense[token][column]
        }
      }
    }
    self.targets = targets
    self.inputs = inputs
    layer = Layer(rows: rows, columns: columns, weights: weights, gram: gram)
    shift = try .stored(cross, residual, rows: rows, columns: columns, in: folder)
    var outputs = residual
    for row in 0..<rows {
      for a in 0..<columns {
        var sum = 0.0
        for token in 0..<tokens {
          let output = targets[row][token] - stream[row][token]
          sum += inputs[token][a] * (0.3 * output + stream[row][token])
        }
        outputs[row * columns + a] = Float(sum)
      }
    }
    shiftsOfAShare = (
      try .stored(cross.map { 0.3 * $0 }, residual, rows: rows, columns: columns, in: folder, as: "scaled-"),
      try .stored(outputs: outputs, share: 0.3, layer.matrix, rows: rows, in: folder)
    )
  }

  /// `|t - v X|^2` less `|t - w X|^2`, which no v changes.
  func loss(_ row: Int, _ v: [Double]) -> Double {
    let w = (0..<layer.columns).map { Double(layer.weights[row * layer.columns + $0]) }
    func square(_ v: [Double]) -> Double {
      inputs.indices.reduce(0) { sum, token in
        let left = zip(v, inputs[token]).reduce(targets[row][token]) { $0 - $1.0 * $1.1 }
        return sum + left * left
      }
    }
    return square(v) - square(w)
  }

  func masked(_ row: Int, _ mask: Mask) -> [Double] {
    (0..<layer.columns).map { mask[row, $0] ? Double(layer.weights[row * layer.columns + $0]) : 0 }
  }

  /// The least loss of a mask that one exchange of weights in runs of `span` reaches; that of the mask if none is lower.
  func bestExchange(_ row: Int, _ mask: Mask, span: Int) -> Double {
    var best = loss(row, masked(row, mask))
    var next = mask
    for u in 0..<layer.columns where mask[row, u] {
      for p in 0..<layer.columns where !mask[row, p] && u / span == p / span {
        (next[row, u], next[row, p]) = (false, true)
        best = min(best, loss(row, masked(row, next)))
        (next[row, u], next[row, p]) = (true, false)
      }
    }
    return best
  }

  /// The sum of `w_j^2 G_jj` of a row.
  func scale(_ row: Int) -> Double {
    (0..<layer.columns).reduce(0.0) {
      let w = Double(layer.weights[row * layer.columns + $1])
      return $0 + w * w * layer.diagonal[$1]
    }
  }
}

extension TargetShift {
  fileprivate static func stored(
    _ cross: [Float]?, _ residual: [Float]?, rows: Int, columns: Int, in folder: TemporaryFolder,
    as prefix: String = ""
  ) throws -> TargetShift {
    func weight(_ name: String, _ rows: Int, _ values: [Float]?) throws -> LinearWeight? {
      guard let values else { return nil }
      let path = folder.path + "/\(prefix)\(name).safetensors"
      var writer = try SafetensorsWriter(path: path, tensors: [(name, .f32, [rows, columns])])
      try writer.append(values)
      try writer.finish()
      return try LinearWeight(SafetensorsFile(path: path).tensor(name))
    }
    return try TargetShift(
      cross: weight("cross", columns, cross), residual: weight("residual", rows, residual))
  }

  fileprivate static func stored(
    outputs: [Float], share: Float, _ gram: GramMatrix, rows: Int, in folder: TemporaryFolder
  ) throws -> TargetShift {
    let path = folder.path + "/outputs.safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("outputs", .f32, [rows, gram.columns])])
    try writer.append(outputs)
    try writer.finish()
    return try TargetShift(
      outputs: LinearWeight(SafetensorsFile(path: path).tensor("outputs")), share: share, gram: gram)
  }
}

/// Targets other than a row's own output: every kernel against losses that are computed from the inputs themselves, in f64.
@Suite struct TargetShiftTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  @Test(arguments: [nil, (2, 4), (3, 8)] as [(keep: Int, of: Int)?], SwapOptions.Moves.allCases)
  func everySwapIsTheBest(groups: (keep: Int, of: Int)?, moves: SwapOptions.Moves) throws {
    if groups == nil, moves == .group { return }
    var random = SeededRandom(seed: 3)
    var negative = 0
    for _ in 0..<25 {
      let columns = (groups?.of ?? 4) * Int.random(in: 1...3, using: &random)
      let problem = try ShiftedLayer(&random, rows: 3, columns: columns, tokens: 20, in: folder)
      let weight = try problem.layer.weight(in: folder)
      let pattern: SparsityPattern =
        groups.map { .groups(keep: $0.keep, of: $0.of) } ?? .rows(sparsity: 0.5)
      var mask = mostSalient(weight, .magnitude, diagonal: [], pattern: pattern, on: device)
      let span = pattern.span(ofColumns: columns)
      for limit in [1, 1, nil] as [Int?] {
        let before = mask
        let outcome = try refineBySwaps(
          weight, gram: problem.layer.matrix, shift: problem.shift, mask: &mask,
          options: SwapOptions(limit: limit, moves: moves), on: device)
        var (lossBefore, lossAfter, scale) = (0.0, 0.0, 0.0)
        for row in 0..<3 {
          let after = problem.loss(row, problem.masked(row, mask))
          let tolerance = 1e-4 * problem.scale(row)
          if limit == 1, moves == .single {
            #expect(abs(after - problem.bestExchange(row, before, span: span)) <= tolerance)
          }
          if limit == nil {
            #expect(problem.bestExchange(row, mask, span: span) >= after - tolerance)
          }
          lossBefore += problem.loss(row, problem.masked(row, before))
          lossAfter += after
          scale += problem.scale(row)
          if after < 0 { negative += 1 }
        }
        #expect(abs(outcome.lossBefore - lossBefore) <= 1e-4 * scale)
        #expect(abs(outcome.lossAfter - lossAfter) <= 1e-4 * scale)
        #expect(
          abs(Loss(problem.layer.matrix, shift: problem.shift, on: device).of(weight, mask) - lossAfter)
            <= 1e-4 * scale)
      }
    }
    // The masks must also be searched where the loss, without the constant, is below zero.
    #expect(negative > 0)
  }

  /// The shift is the same whether it comes from what the inputs lack or from the dense model's outputs.
  @Test func outputsGiveTheShiftOfInputs() throws {
    var random = SeededRandom(seed: 14)
    for _ in 0..<10 {
      let columns = Int.random(in: 1...300, using: &random)
      let problem = try ShiftedLayer(&random, rows: 5, columns: columns, tokens: 30, in: folder)
      let weight = try problem.layer.weight(in: folder)
      let (cross, outputs) = problem.shiftsOfAShare
      let expected = cross.ofRows(1..<4, of: weight, on: device).array()
      let found = outputs.ofRows(1..<4, of: weight, on: device).array()
      let largest = expected.reduce(0) { max($0, abs($1)) }
      #expect(zip(expected, found).allSatisfy { abs($0 - $1) <= 1e-4 * largest })
    }
  }

  /// What is held out has a shift of its own: the row keeps the mask with the least loss on it.
  @Test(arguments: [nil, (2, 4)] as [(keep: Int, of: Int)?])
  func heldOutInputsHaveTheirOwnShift(groups: (keep: Int, of: Int)?) throws {
    var random = SeededRandom(seed: 9)
    var cut = 0
    for _ in 0..<10 {
      let own = try ShiftedLayer(&random, rows: 4, columns: 24, tokens: 30, in: folder)
      let weight = try own.layer.weight(in: folder)
      // Other inputs with other targets for the same weights.
      let heldFolder = try TemporaryFolder()
      var other = try ShiftedLayer(&random, rows: 4, columns: 24, tokens: 12, in: heldFolder).layer
      let residual = random.normals(4 * 24).map { 8 * $0 }
      other.weights = own.layer.weights
      let heldShift = try TargetShift.stored(nil, residual, rows: 4, columns: 24, in: heldFolder)
      let pattern: SparsityPattern =
        groups.map { .groups(keep: $0.keep, of: $0.of) } ?? .rows(sparsity: 0.5)
      let start = mostSalient(weight, .magnitude, diagonal: [], pattern: pattern, on: device)
      func heldOut(_ mask: Mask) -> [Double] {
        (0..<4).map { row in
          let kept = (0..<24).map { mask[row, $0] ? Double(own.layer.weights[row * 24 + $0]) : 0 }
          return (0..<24).reduce(other.loss(row, kept)) {
            $0 + 2 * (mask[row, $1] ? 0 : Double(own.layer.weights[row * 24 + $1] * residual[row * 24 + $1]))
          }
        }
      }
      var mask = start
      let outcome = try refineBySwaps(
        weight, gram: own.layer.matrix, shift: own.shift, mask: &mask,
        options: SwapOptions(heldOut: other.matrix, heldOutShift: heldShift), on: device)
      let (before, after) = (heldOut(start), heldOut(mask))
      let scale = before.reduce(1) { $0 + abs($1) }
      #expect(abs(outcome.heldOutBefore - before.reduce(0, +)) <= 1e-4 * scale)
      #expect(abs(outcome.heldOutAfter - after.reduce(0, +)) <= 1e-4 * scale)
      #expect(zip(before, after).allSatisfy { $1 <= $0 + 1e-4 * scale })
      var all = start
      _ = try refineBySwaps(
        weight, gram: own.layer.matrix, shift: own.shift, mask: &all, options: SwapOptions(), on: device)
      if all != mask { cut += 1 }
      // No mask on the way was better there.
      for limit in 1...3 {
        var some = start
        _ = try refineBySwaps(
          weight, gram: own.layer.matrix, shift: own.shift, mask: &some, options: SwapOptions(limit: limit),
          on: device)
        #expect(zip(heldOut(some), after).allSatisfy { $1 <= $0 + 1e-4 * scale })
      }
    }
    #expect(cut > 0)
  }

  @Test func movesBetweenRowsEndWhereNoneHelps() throws {
    var random = SeededRandom(seed: 12)
    for _ in 0..<10 {
      let problem = try ShiftedLayer(&random, rows: 4, columns: 10, tokens: 15, in: folder)
      let weight = try problem.layer.weight(in: folder)
      var mask = mostSalient(
        weight, .magnitude, diagonal: [], pattern: .matrix(sparsity: 0.5), on: device)
      let kept = mask.keptCount
      func losses(_ mask: Mask) -> [Double] { (0..<4).map { problem.loss($0, problem.masked($0, mask)) } }
      let before = losses(mask).reduce(0, +)
      let outcome = refineAcrossRows(
        weight, gram: problem.layer.matrix, shift: problem.shift, mask: &mask,
        options: SwapOptions(budget: .matrix(floor: 0)), on: device
      ) { _, _ in }
      let after = losses(mask)
      let tolerance = 1e-4 * (0..<4).reduce(0.0) { $0 + problem.scale($1) }
      #expect(mask.keptCount == kept)
      #expect(abs(outcome.lossBefore - before) <= tolerance)
      #expect(abs(outcome.lossAfter - after.reduce(0, +)) <= tolerance)
      for row in 0..<4 { #expect(problem.bestExchange(row, mask, span: 10) >= after[row] - tolerance) }
      for (from, to) in (0..<4).flatMap({ from in (0..<4).map { (from, $0) } }) where from != to {
        for u in 0..<10 where mask[from, u] {
          for p in 0..<10 where !mask[to, p] {
            var next = mask
            (next[from, u], next[to, p]) = (false, true)
            #expect(losses(next).reduce(0, +) >= after.reduce(0, +) - tolerance)
          }
        }
      }
    }
  }

  /// Both ways of fitting solve `(G + ridge) v = G w + s + ridge w` on what is kept.
  @Test(arguments: [0, 1e9])
  func fittedWeightsSolveTheirSystem(expectedSteps: Double) throws {
    var random = SeededRandom(seed: 5)
    for _ in 0..<20 {
      let problem = try ShiftedLayer(&random, rows: 3, columns: 12, tokens: 40, in: folder)
      let weight = try problem.layer.weight(in: folder)
      let mask = problem.layer.randomMask(&random)
      var system = FitSystem(problem.layer.matrix, ReconstructOptions(tolerance: 1e-7))
      system.expectedSteps = expectedSteps
      var block = problem.layer.block(mask)
      let states = fit(&block, system, RowShifts(problem.shift, 0..<3, of: weight, on: device), on: device)
      let ridge = problem.layer.ridge(0.01)
      for row in 0..<3 {
        let new = (0..<12).map { Double(block.weights[row, $0]) }
        func damped(_ v: [Double]) -> Double {
          (0..<12).reduce(problem.loss(row, v)) {
            let moved = v[$1] - Double(problem.layer.weights[row * 12 + $1])
            return $0 + (mask[row, $1] ? ridge[$1] * moved * moved : 0)
          }
        }
        let scale = problem.scale(row)
        #expect(abs(states[row].before - problem.loss(row, problem.masked(row, mask))) <= 1e-4 * scale)
        #expect(abs(states[row].after - problem.loss(row, new)) <= 1e-4 * scale)
        // No single weight is better elsewhere: the loss is convex, so none at all.
        for column in 0..<12 where mask[row, column] {
          for step in [-0.02, 0.02] {
            var other = new
            other[column] += step
            #expect(damped(other) > damped(new))
          }
        }
      }
    }
  }

  /// A shift that comes from other weights w*: SparseGPT then prunes w*.
  @Test(
    arguments: [.rows(sparsity: 0.5), .groups(keep: 2, of: 4), .matrix(sparsity: 0.5)] as [SparsityPattern])
  func sparseGPTPrunesTheWeightsThatTheTargetsComeFrom(pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: 6)
    for _ in 0..<10 {
      let layer = Layer.random(&random, rows: 5, columns: 24, tokens: 80)
      var other = layer
      for index in other.weights.indices { other.weights[index] += 0.5 * random.normal() }
      let mean = layer.diagonal.reduce(0, +) / 24
      let residual = (0..<5 * 24).map { index in
        let (row, a) = (index / 24, index % 24)
        return Float(
          (0..<24).reduce(0.0) { sum, b in
            let g =
              Double(layer.gram[a * 24 + b]) + (a == b && layer.diagonal[a] > 0 ? 0.01 * mean : 0)
            return sum + g * Double(other.weights[row * 24 + b] - layer.weights[row * 24 + b])
          })
      }
      let shift = try TargetShift.stored(nil, residual, rows: 5, columns: 24, in: folder)
      var results: [(mask: Mask, weights: [Float])] = []
      for (layer, shift) in [(layer, shift), (other, nil)] {
        var new: [Float] = []
        let outcome = try pruneBySparseGPT(
          layer.weight(in: folder), gram: layer.matrix, shift: shift, pattern: pattern, on: device
        ) { new += $0.array() }
        results.append((outcome.mask, new))
      }
      #expect(results[0].mask == results[1].mask)
      #expect(zip(results[0].weights, results[1].weights).allSatisfy { abs($0 - $1) < 2e-3 })
    }
  }

  /// The masks and weights that ADMM finds for the target are better for it than those that it finds for the rows' own outputs, and a
  /// fit of the kept weights does not improve them.
  @Test(arguments: [.rows(sparsity: 0.5), .groups(keep: 2, of: 4)] as [SparsityPattern])
  func admmFollowsTheTarget(pattern: SparsityPattern) throws {
    var random = SeededRandom(seed: 8)
    var (better, all) = (0, 0)
    for _ in 0..<10 {
      let problem = try ShiftedLayer(&random, rows: 6, columns: 24, tokens: 60, in: folder)
      let weight = try problem.layer.weight(in: folder)
      func prune(_ shift: TargetShift?) throws -> (outcome: FoundMask<ADMMOutcome>, weights: [Float]) {
        var new: [Float] = []
        let outcome = try pruneByADMM(
          weight, gram: problem.layer.matrix, shift: shift, pattern: pattern, on: device
        ) { new += $0.array() }
        return (outcome, new)
      }
      let (own, shifted) = (try prune(nil), try prune(problem.shift))
      var refitted: [Float] = []
      _ = try reconstruct(
        weight, gram: problem.layer.matrix, shift: problem.shift, mask: own.outcome.mask, on: device
      ) { refitted += $0.array() }
      var total = 0.0
      for row in 0..<6 {
        func loss(_ weights: [Float]) -> Double {
          problem.loss(row, (0..<24).map { Double(weights[row * 24 + $0]) })
        }
        total += loss(shifted.weights)
        all += 1
        if loss(shifted.weights) <= loss(refitted) + 1e-4 * problem.scale(row) { better += 1 }
      }
      #expect(
        abs(total - shifted.outcome.fit.lossAfter)
          <= 1e-4 * (0..<6).reduce(0.0) { $0 + problem.scale($1) })
    }
    #expect(better > all * 3 / 4, "\(better) of \(all)")
  }

  @Test func aCrossMatrixThatDoesNotFitIsRefused() throws {
    #expect(throws: EspalierError.self) {
      let weight = try Layer(rows: 2, columns: 3, weights: [1, 2, 3, 4, 5, 6], gram: []).weight(in: folder)
      _ = try TargetShift(cross: weight, residual: nil)
    }
  }

  @Test func outputsOfAnotherWidthAreRefused() throws {
    #expect(throws: EspalierError.self) {
      let gram = GramMatrix(Matrix(rows: 2, columns: 2, [1, 0, 0, 1]))
      let weight = try Layer(rows: 2, columns: 3, weights: [1, 2, 3, 4, 5, 6], gram: []).weight(in: folder)
      _ = try TargetShift(outputs: weight, share: 0.5, gram: gram)
    }
  }
}
