import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierTestSupport

/// A weight, the Gram matrix of correlated inputs, and both as plain values for loops in f64.
struct FrankWolfeProblem {
  let rows: Int
  let columns: Int
  let weights: [Float]
  let gram: [Float]
  let weight: LinearWeight

  /// - Parameter tokens: fewer than columns make G singular; some columns are zero or equal to others.
  init(rows: Int, columns: Int, tokens: Int, _ random: inout SeededRandom, _ folder: TemporaryFolder) throws {
    var inputs = (0..<tokens).map { _ in random.normals(columns) }
    let scales = random.normals(columns).map { 0.2 + abs($0) }
    let (from, to) = (
      Int.random(in: 0..<columns, using: &random), Int.random(in: 0..<columns, using: &random)
    )
    for token in 0..<tokens {
      let common = random.normal()
      for column in 0..<columns {
        inputs[token][column] = (inputs[token][column] + 0.7 * common) * scales[column]
      }
      switch columns % 3 {
      case 0: inputs[token][to] = inputs[token][from]
      case 1: inputs[token][to] = 0
      default: break
      }
    }
    var gram = [Float](repeating: 0, count: columns * columns)
    for i in 0..<columns {
      for j in 0...i {
        gram[i * columns + j] = Float(inputs.reduce(0.0) { $0 + Double($1[i]) * Double($1[j]) })
        gram[j * columns + i] = gram[i * columns + j]
      }
    }
    try self.init(weights: random.normals(rows * columns), gram: gram, rows: rows, columns: columns, folder)
  }

  init(weights: [Float], gram: [Float], rows: Int, columns: Int, _ folder: TemporaryFolder) throws {
    (self.weights, self.gram, self.rows, self.columns) = (weights, gram, rows, columns)
    weight = try writeWeight(weights, rows, columns, folder)
  }

  var matrix: GramMatrix { GramMatrix(Matrix(rows: columns, columns: columns, gram)) }
  var diagonal: [Double] { (0..<columns).map { Double(gram[$0 * columns + $0]) } }

  func start(_ pattern: SparsityPattern) -> Mask {
    mostSalient(weight, .wanda, diagonal: diagonal, pattern: pattern, on: device)
  }

  /// `((1-x).w) G` of a row.
  func product(_ row: Int, _ x: [Double]) -> [Double] {
    let columns = columns
    return [Double](unsafeUninitializedCapacity: columns) { c, count in
      count = columns
      c.initialize(repeating: 0)
      gram.withUnsafeBufferPointer { gram in
        for i in 0..<columns {
          let d = Double(weights[row * columns + i]) * (1 - x[i])
          if d == 0 { continue }
          for j in 0..<columns { c[j] += d * Double(gram[i * columns + j]) }
        }
      }
    }
  }

  /// `((1-x).w)^T G ((1-x).w)` of a row.
  func loss(_ row: Int, _ x: [Double]) -> Double {
    let c = product(row, x)
    return (0..<columns).reduce(0) { $0 + Double(weights[row * columns + $1]) * (1 - x[$1]) * c[$1] }
  }

  /// Half of the negative gradient: `w . c`.
  func scores(_ row: Int, _ x: [Double]) -> [Double] {
    let c = product(row, x)
    return (0..<columns).map { Double(weights[row * columns + $0]) * c[$0] }
  }

  func kept(_ mask: Mask, _ row: Int) -> [Double] { (0..<columns).map { mask[row, $0] ? 1 : 0 } }

  /// The most salient `share` of what a row keeps; of equal ones the lower index goes first.
  func frozen(_ mask: Mask, _ row: Int, share: Double) -> [Bool] {
    let kept = (0..<columns).filter { mask[row, $0] }
    let order = kept.sorted {
      let (a, b) = (salience(row, $0), salience(row, $1))
      return a != b ? a > b : $0 > $1
    }
    let chosen = Set(order.prefix(Int(share * Double(kept.count))))
    return (0..<columns).map(chosen.contains)
  }

  private func salience(_ row: Int, _ column: Int) -> Float {
    abs(weights[row * columns + column]) * gram[column * columns + column].squareRoot()
  }

  /// The best vertex for scores, by sorting: the `keep` largest positive ones of every span, frozen ones
  /// first; and by how little of the threshold the choice was made.
  ///
  /// - Parameter isFull: takes negative ones too where there are not enough.
  func vertex(_ scores: [Double], frozen: [Bool], keep: Int, span: Int, isFull: Bool = false) -> (
    vertex: [Double], margin: Double
  ) {
    var vertex = frozen.map { $0 ? 1.0 : 0 }
    var margin = Double.infinity
    for start in stride(from: 0, to: columns, by: span) {
      let budget = keep - (start..<start + span).count { frozen[$0] }
      let order = (start..<start + span).filter { !frozen[$0] }.sorted { scores[$0] > scores[$1] }
      for index in order.prefix(max(0, budget)) where isFull || scores[index] > 0 { vertex[index] = 1 }
      let largest = order.first.map { abs(scores[$0]) } ?? 0
      if budget > 0, budget < order.count, largest > 0 {
        let (last, next) = (max(0, scores[order[budget - 1]]), max(0, scores[order[budget]]))
        if last > 0 { margin = min(margin, (last - next) / largest) }
      }
    }
    return (vertex, margin)
  }

  /// Open-loop Frank-Wolfe in f64 with a dense product for every gradient (section 4 of the paper, with the
  /// gradient at the whole mask): x, and the smallest margin of any choice.
  func frankWolfe(_ row: Int, from mask: Mask, alpha: Double, iterations: Int) -> (
    x: [Double], margin: Double
  ) {
    let span = mask.pattern.span(ofColumns: columns)
    let frozen = frozen(mask, row, share: alpha)
    var (x, smallest) = (kept(mask, row), Double.infinity)
    for iteration in 0..<iterations {
      let (vertex, margin) = vertex(
        scores(row, x), frozen: frozen, keep: mask.pattern.kept(ofColumns: span), span: span)
      smallest = min(smallest, margin)
      let eta = 2 / Double(iteration + 2)
      for index in 0..<columns { x[index] = (1 - eta) * x[index] + eta * vertex[index] }
    }
    return (x, smallest)
  }
}

/// A weight in a file, as checkpoints hold it.
func writeWeight(_ values: [Float], _ rows: Int, _ columns: Int, _ folder: TemporaryFolder) throws
  -> LinearWeight
{
  let path = folder.path + "/\(rows)-\(columns)-\(values.hashValue).safetensors"
  var writer = try SafetensorsWriter(path: path, tensors: [("w", .f32, [rows, columns])])
  try writer.append(values)
  try writer.finish()
  return try LinearWeight(SafetensorsFile(path: path).tensor("w"))
}
