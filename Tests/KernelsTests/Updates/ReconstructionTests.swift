import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// A small layer: weights and the Gram matrix of correlated inputs.
struct Layer {
  let rows: Int
  let columns: Int
  var weights: [Float]
  var gram: [Float]

  /// Sometimes with zero or duplicate columns, or fewer inputs than columns.
  static func random(_ random: inout SeededRandom, rows: Int, columns: Int, tokens: Int) -> Layer {
    let (from, to) = (
      Int.random(in: 0..<columns, using: &random), Int.random(in: 0..<columns, using: &random)
    )
    let kind = Int.random(in: 0..<4, using: &random)
    var inputs: [Float] = []
    for _ in 0..<tokens {
      let common = random.normal()
      var token = random.normals(columns).map { $0 + 0.7 * common }
      if kind == 0 { token[to] = token[from] }
      if kind == 1 { token[to] = 0 }
      inputs += token
    }
    let product = GramMatrix(
      factor: Matrix(rows: tokens, columns: columns, inputs), rest: [Float](repeating: 0, count: columns))
    var gram = product.copy(on: device).array()
    for i in 0..<columns { for j in 0..<i { gram[j * columns + i] = gram[i * columns + j] } }
    return Layer(rows: rows, columns: columns, weights: random.normals(rows * columns), gram: gram)
  }

  /// All rows, with what a mask keeps of them.
  func block(_ mask: Mask) -> RowBlock {
    var kept = Buffer<UInt8>(count: rows * columns)
    for index in 0..<rows * columns { kept[index] = mask[index / columns, index % columns] ? 1 : 0 }
    return RowBlock(rows: 0..<rows, weights: Matrix(rows: rows, columns: columns, weights), kept: kept)
  }

  var matrix: GramMatrix { GramMatrix(Matrix(rows: columns, columns: columns, gram)) }

  var diagonal: [Double] { (0..<columns).map { Double(gram[$0 * columns + $0]) } }

  /// What is added to the diagonal of G: a share of its mean, and what f32 may have taken from it.
  func ridge(_ damping: Double) -> [Double] {
    let mean = diagonal.reduce(0, +) / Double(columns)
    return diagonal.map { damping * mean + 1e-6 * $0 }
  }

  /// The weight as a file has it.
  func weight(in folder: TemporaryFolder) throws -> LinearWeight {
    let path = folder.path + "/w.safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("w", .f32, [rows, columns])])
    try writer.append(weights)
    try writer.finish()
    return try LinearWeight(SafetensorsFile(path: path).tensor("w"))
  }

  /// A mask that keeps any weights, each row another number.
  func randomMask(_ random: inout SeededRandom) -> Mask {
    var mask = Mask(rows: rows, columns: columns, pattern: .matrix(sparsity: 0))
    for row in 0..<rows {
      let share = Double.random(in: -0.2...1.2, using: &random)
      for column in 0..<columns { mask[row, column] = Double.random(in: 0..<1, using: &random) < share }
    }
    return mask
  }

  /// `(w - w')^T (G + diag(ridge)) (w - w')` of one row, in f64.
  func loss(_ row: Int, _ new: [Double], ridge: [Double]? = nil) -> Double {
    let error = (0..<columns).map { Double(weights[row * columns + $0]) - new[$0] }
    var sum = 0.0
    for i in 0..<columns {
      for j in 0..<columns { sum += error[i] * Double(gram[i * columns + j]) * error[j] }
      sum += (ridge?[i] ?? 0) * error[i] * error[i]
    }
    return sum
  }

  /// The weights of one row that lose least, by Gaussian elimination in f64.
  func fitted(_ row: Int, _ mask: Mask, ridge: [Double]) -> [Double] {
    let kept = (0..<columns).filter { mask[row, $0] && diagonal[$0] > 0 }
    var system = kept.map { i in
      let side = (0..<columns).filter { !mask[row, $0] }.reduce(0.0) {
        $0 + Double(gram[i * columns + $1]) * Double(weights[row * columns + $1])
      }
      return kept.map { Double(gram[i * columns + $0]) + ($0 == i ? ridge[i] : 0) } + [side]
    }
    for pivot in kept.indices {
      let best = (pivot..<kept.count).max { abs(system[$0][pivot]) < abs(system[$1][pivot]) } ?? pivot
      system.swapAt(pivot, best)
      for other in kept.indices where other != pivot {
        let factor = system[other][pivot] / system[pivot][pivot]
        for column in pivot...kept.count { system[other][column] -= factor * system[pivot][column] }
      }
    }
    // Without input a weight stays as it is.
    var new = (0..<columns).map { mask[row, $0] ? Double(weights[row * columns + $0]) : 0 }
    for (index, column) in kept.enumerated() {
      new[column] =
        Double(weights[row * columns + column]) + system[index][kept.count] / system[index][index]
    }
    return new
  }
}

/// A layer of Tests/Golden/updates.safetensors, and what f64 code of the published algorithms made of it.
struct GoldenLayer {
  static let path = Places.golden + "/updates.safetensors"

  let layer: Layer
  let pattern: SparsityPattern
  private let file: SafetensorsFile
  private let name: String

  init(_ name: String) throws {
    file = try SafetensorsFile(path: Self.path)
    self.name = name
    let weights = try file.tensor("\(name).W")
    layer = Layer(
      rows: weights.shape[0], columns: weights.shape[1], weights: try weights.doubles().map { Float($0) },
      gram: try file.tensor("\(name).G").doubles().map { Float($0) })
    pattern =
      switch name {
      case "a": .rows(sparsity: 0.5)
      case "b": .groups(keep: 2, of: 4)
      default: .rows(sparsity: 0.625)
      }
  }

  func doubles(_ key: String) throws -> [Double] { try file.tensor("\(name).\(key)").doubles() }

  func mask(_ key: String, pattern: SparsityPattern? = nil) throws -> Mask {
    let bytes = try file.tensor("\(name).\(key)", dtype: .u8).withBytes { Array($0) }
    var mask = Mask(rows: layer.rows, columns: layer.columns, pattern: pattern ?? self.pattern)
    for (index, byte) in bytes.enumerated() {
      mask[index / layer.columns, index % layer.columns] = byte == 1
    }
    return mask
  }
}

/// Weights fitted on a mask against the normal equations in f64.
@Suite struct ReconstructionTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// Both ways end where no weights with this mask lose less; with hardly any damping too, and from singular
  /// matrices.
  @Test(arguments: [0, 1e-4, 0.01, 0.3], [(0, 1e-4), (0, 1e-7), (40, 1)])
  func noWeightsLoseLess(damping: Double, way: (expectedSteps: Double, tolerance: Double)) throws {
    var random = SeededRandom(seed: 31)
    for _ in 0..<150 {
      let columns = Int.random(in: 1...20, using: &random)
      let layer = Layer.random(
        &random, rows: 8, columns: columns, tokens: Int.random(in: 1...40, using: &random))
      let mask = layer.randomMask(&random)
      var system = FitSystem(layer.matrix, ReconstructOptions(damping: damping, tolerance: way.tolerance))
      system.expectedSteps = way.expectedSteps
      var block = layer.block(mask)
      let states = fit(&block, system, RowShifts(), on: device)
      for row in 0..<8 {
        let new = (0..<columns).map { Double(block.weights[row, $0]) }
        #expect(new.allSatisfy { $0.isFinite })
        for column in 0..<columns where !mask[row, column] { #expect(block.weights[row, column] == 0) }
        let (masked, loss) = (
          layer.loss(
            row, (0..<columns).map { mask[row, $0] ? Double(layer.weights[row * columns + $0]) : 0 }),
          layer.loss(row, new)
        )
        #expect(abs(states[row].before - masked) <= 1e-5 * masked + 1e-5)
        #expect(abs(states[row].after - loss) <= 1e-4 * masked + 1e-5)
        #expect(loss <= masked * (1 + 1e-5) + 1e-5)
        let ridge = layer.ridge(damping)
        let best = layer.fitted(row, mask, ridge: ridge)
        // Conjugate gradients stop early: what is left of the gradient bounds what is left of the loss.
        let kept = (0..<columns).filter { mask[row, $0] && layer.diagonal[$0] > 0 }
        let gradient = kept.reduce(0.0) { sum, i in
          let side = (0..<columns).filter { !mask[row, $0] }.reduce(0.0) {
            $0 + Double(layer.gram[i * columns + $1] * layer.weights[row * columns + $1])
          }
          return sum + side * side / (layer.diagonal[i] + ridge[i])
        }
        let least = kept.map { ridge[$0] / (layer.diagonal[$0] + ridge[$0]) }.min() ?? 1
        let rest = way.expectedSteps == 0 ? way.tolerance * way.tolerance * gradient / least : 0
        #expect(
          layer.loss(row, new, ridge: ridge)
            <= layer.loss(row, best, ridge: ridge) + rest + 1e-5 * masked + 1e-6,
          "\(loss) of \(masked)")
        if damping >= 0.01 && way.tolerance != 1e-4 {
          for column in 0..<columns { #expect(abs(new[column] - best[column]) < 2e-4, "column \(column)") }
        }
      }
    }
  }

  @Test(arguments: ["a", "b", "c"])
  func theWeightsAreTheGoldenOnes(name: String) throws {
    let golden = try GoldenLayer(name)
    let expected = try golden.doubles("fit.weights")
    var new: [Float] = []
    _ = try reconstruct(
      golden.layer.weight(in: folder), gram: golden.layer.matrix, mask: golden.mask("wanda"), on: device
    ) { new += $0.array() }
    #expect(new.count == expected.count)
    for (one, other) in zip(new, expected) { #expect(abs(Double(one) - other) < 2e-5) }
  }

  /// A wide layer takes conjugate gradients by itself, and ends where a factor does.
  @Test func bothWaysAgreeOnAWideLayer() throws {
    var random = SeededRandom(seed: 8)
    let layer = Layer.random(&random, rows: 6, columns: 300, tokens: 400)
    let mask = layer.randomMask(&random)
    var results: [[Float]] = []
    var steps: [Int] = []
    for expected in [0, 1e9] {
      var system = FitSystem(layer.matrix, ReconstructOptions(tolerance: 1e-6))
      system.expectedSteps = expected
      var block = layer.block(mask)
      steps.append(fit(&block, system, RowShifts(), on: device).reduce(0) { $0 + $1.steps })
      results.append(block.weights.array())
    }
    #expect(steps[0] > 0 && steps[1] == 0)
    for (one, other) in zip(results[0], results[1]) { #expect(abs(one - other) < 1e-3) }
  }

  @Test func blocksComeInOrderAndTheThreadsDoNotMatter() throws {
    var random = SeededRandom(seed: 4)
    let layer = Layer.random(&random, rows: 600, columns: 40, tokens: 60)
    let weight = try layer.weight(in: folder)
    let mask = mostSalient(
      weight, .wanda, diagonal: layer.diagonal, pattern: .groups(keep: 2, of: 4), on: device)
    var results: [[Float]] = []
    for threads in [1, 3] {
      let device = Device(threads: threads)
      var (all, losses): ([Float], [Double]) = ([], [])
      let outcome = try reconstruct(weight, gram: layer.matrix, mask: mask, on: device) { rows in
        losses += Loss(layer.matrix, on: device).ofUpdate(weight, rows, firstRow: all.count / 40)
        all += rows.array()
      }
      #expect(all.count == 600 * 40)
      #expect(
        abs(outcome.lossBefore / Loss(layer.matrix, on: device).of(weight, mask) - 1) < 1e-6)
      #expect(abs(outcome.lossAfter / losses.reduce(0, +) - 1) < 1e-4)
      #expect(outcome.lossAfter < 0.9 * outcome.lossBefore)
      for row in [0, 255, 256, 599] {
        let expected = layer.fitted(row, mask, ridge: layer.ridge(0.01))
        let new = (0..<40).map { Double(all[row * 40 + $0]) }
        #expect(zip(new, expected).allSatisfy { abs($0 - $1) < 1e-4 })
        #expect(abs(losses[row] / layer.loss(row, new) - 1) < 1e-4)
      }
      results.append(all)
    }
    #expect(results[0] == results[1])
  }

  @Test func aFactorOfLowRankGivesTheSame() throws {
    var random = SeededRandom(seed: 6)
    let factor = random.normals(12 * 30)
    let rest = (0..<30).map { Float($0 % 4) }
    let low = GramMatrix(factor: Matrix(rows: 12, columns: 30, factor), rest: rest)
    let whole = GramMatrix(low.copy(on: device))
    let layer = Layer.random(&random, rows: 5, columns: 30, tokens: 1)
    let mask = layer.randomMask(&random)
    for expected in [0, 1e9] {
      var results: [[Float]] = []
      for gram in [low, whole] {
        var system = FitSystem(gram, ReconstructOptions(tolerance: 1e-6))
        system.expectedSteps = expected
        var block = layer.block(mask)
        _ = fit(&block, system, RowShifts(), on: device)
        results.append(block.weights.array())
      }
      #expect(zip(results[0], results[1]).allSatisfy { abs($0 - $1) < 1e-4 })
    }
  }
}
